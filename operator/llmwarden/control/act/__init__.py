"""What the operator writes: objects by server-side apply, statuses, Events, evictions.

Nothing here decides what to write; `manifests` and `status` do. Start at `apply`.
"""
