"""The sidecar: carries LLM traffic, measures it beside the path, prices it, gates it by budget, reports it.

`server`, `exchange` and `upstream` know bytes and nothing of models or money; `seam` is all they see of the rest.
`calls` fills the seam in: it understands a call through a `dialects` module, asks the `gate`, and settles the call in
`journal`, `telemetry` and `spans`. `reporter` alone talks to the ledger, off the hot path.
"""
