"""What a call may spend and what it has spent: prices, leased budgets, the gate, and the journal that survives a crash.

What a call looks like is not here (`proxy.calls`), nor is the connection to the ledger (`proxy.reporter`). Start at `gate` for whether a
call may be made, at `tariff` for what it costs, at `accounts` for where it is counted.
"""
