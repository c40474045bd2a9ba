"""The ledger: exact usage and money of every service, budgets and leases, configuration and prices for proxies.

Nothing here is seen by the sidecar but `contracts`. Start at `main`, the process, and `core`, what it knows.
"""
