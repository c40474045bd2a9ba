"""Bytes between clients and upstreams: HTTP/1.1 connections, limits, time-outs, splicing.

Nothing here understands a call; it asks `proxy.seam`. Start at `server`.
"""
