"""What two processes agree on: one module per contract, imported by the one that writes and the one that reads.

- `sidecar`: the webhook tells a proxy what to carry (`LLMWARDEN_PROXY`).
- `ledger`: proxies ask for budgets and prices and report usage; the operator asks for all usage and reports GPUs.
- `spend`: what `GET /v1/spend` answers to `kubectl llm cost`.
- `reconciliation`: what `GET /v1/reconciliation` answers to the operator and to `kubectl llm reconcile`.

Types and their form in JSON only; what they mean is in `domain/`. A sidecar imports these modules, so they import msgspec, the standard
library and `names`, and nothing else (import-linter checks it). `tests/golden/contracts` feeds what is written to what reads it, and has
each version's form as files.
"""
