"""What usage costs: prices of tokens, prices of GPU-hours, and sums in money.

The stored counters are not here: see `ledger.store`. Start at `pricing`.
"""
