"""Typed clients of our own services, for the operator, `kubectl llm` and whatever else reads them.

A client returns the Structs of `contracts/` and raises the errors of `llmwarden.errors`. It judges nothing and shows nothing: that is its
caller's. The proxy is not a caller: it has a client of its own, because a sidecar may not import httpx. Start at `ledger`.
"""
