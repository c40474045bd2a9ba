"""The operator: watches the cluster, decides, writes objects and statuses.

What objects look like is not here: see `manifests`, `injection` and `status`, which are pure. Start at `reconcile`, which reads as a sentence;
`handlers.main` is the process, `observe` reads the cluster, `act` writes to it.
"""
