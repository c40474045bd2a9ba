"""The mutating admission webhook: a thin shell around `injection.sidecar` that fails open.

What a pod becomes is not here, nor how connections and bodies are bounded (`serving`). Start at `app` for HTTP, at `admission` for a review.
"""
