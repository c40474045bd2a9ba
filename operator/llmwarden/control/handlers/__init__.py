"""The process: kopf watches, the work queue, and start and end of the role `operator`. The only importer of kopf.

No decision is made here: a handler marks a key, and `control.reconcile` does the rest. Start at `main`.
"""
