"""One measured call from its request to its end: admitted, read as it passes, settled once.

Bytes are not here (`proxy.http`), nor is what an endpoint looks like (`proxy.dialects`), nor prices and budgets (`proxy.money`).
Start at `service`. Imports go one way: `service` -> `call` -> `settle` -> `admission` -> `route`.
"""
