"""Measurements that are made by hand: nothing here runs with the tests."""
