"""Who may spend how much of a budget: leases, and what becomes of the leases of pods that are gone."""
