"""The operator with hundreds to ten thousand services, on a real API server: memory, CPU, latency of an edit, writes, what is stored.

Here are the measurement and its targets (`figures.py`); nothing of it is imported by the product. Start at `__main__.py`, then `run.py`.
"""
