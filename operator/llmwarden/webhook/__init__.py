"""The mutating admission webhook: a thin shell around `desired.sidecar` that fails open."""
