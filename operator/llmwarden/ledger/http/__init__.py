"""The HTTP side of the ledger: reports and configuration, spend and reconciliation, GPU-hours.

No sums and no judgement here: see `ledger.core`. Start at `app`.
"""
