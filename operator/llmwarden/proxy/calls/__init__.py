"""One measured call from its request to its end: admitted, understood as it passes, settled once.

Bytes are not here (`proxy.http`), nor what an endpoint looks like (`proxy.dialects`). Start at `service`.
"""
