"""What the operator reads: local copies of the cluster, and answers of Prometheus, the ledger and engines.

Nothing here writes to the cluster; `control.act` does. Start at `world`.
"""
