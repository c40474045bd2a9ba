"""What a call may spend and what it did: prices, leased budgets, the gate, and the journal that survives a crash."""
