"""Prometheus metrics and spans of finished calls.

What a call is, is not here (`proxy.record`), nor is the admin port that serves the metrics (`proxy.admin`). Start at `metrics`.
"""
