"""The ledger under the reports of thousands of proxies: real HTTPS, a real database, simulated clients."""
