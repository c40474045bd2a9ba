"""The ledger's storage: SQLAlchemy Core on SQLite (WAL) or PostgreSQL, by one setting. Nothing in it is a float.

What others use stands here. `Store` has the methods; leases are granted by `Store.merge` and ended by `Store.release`
(`leases.py` says how that keeps a budget exact). Statements are the same on both databases but for the spelling of upserts and of
parameters that are tables (`row_parameter.py`).

Tables
- `journals`: one row per (journal, pod UID): a pod cannot write into another pod's journal, whatever name it sends.
- `keys`: what counters are counted by (namespace, service, provider, model, price, context, tier, labels), each written once.
- `rows`: cumulative counters per (journal, key, bucket), merged by maximum: what makes duplicates and reordering harmless.
- `folded`: the same counters of rows beyond a quota, which count together in one row (`quotas.py`).
- `spend`: the sums of `rows` over journals, kept in the same transaction: what aggregates are rebuilt from, and asked.
- `changes`: one row, the number of the last transaction that changed `spend`. Taking the next number locks it to the end of
  the transaction: transactions of all replicas are one after the other, and a number that is seen has none missing below it.
- `log`: what each of the last few thousand numbers added to `spend`: replicas follow each other by it.
- `leases`: the outstanding balance of each (budget, journal).
- `prices`, `issued`: every price that was ever handed out, and for which providers and models: a row is always rated by
  the price it was counted at, and cannot name a cheaper model's.
- `services`: the labels and the provider that each service had last (when it is gone, what it spent still counts in the
  shared budgets, and these still gate its pods), and when it was last reported.
- `gpu_pods`, `gpu_held`: GPUs that pods of services held, and sums of their time by bucket (`gpu.py`).
Costs are not stored: they are counters times prices, both of which never change once written (but for growing counters).
"""

from llmwarden.ledger.store.gpu import HeldSum, Lost, PodKey, PodSpan
from llmwarden.ledger.store.leases import Ground, Held, Holding, Lending, Silent
from llmwarden.ledger.store.model import (
    Batch,
    BehindError,
    Delta,
    Issued,
    Merged,
    PriceRecord,
    Remembered,
    RowKey,
    issued_of,
)
from llmwarden.ledger.store.quotas import Quota, Quotas
from llmwarden.ledger.store.schema import SchemaError
from llmwarden.ledger.store.store import Store

__all__ = [
    "Batch",
    "BehindError",
    "Delta",
    "Ground",
    "Held",
    "HeldSum",
    "Holding",
    "Issued",
    "Lending",
    "Lost",
    "Merged",
    "PodKey",
    "PodSpan",
    "PriceRecord",
    "Quota",
    "Quotas",
    "Remembered",
    "RowKey",
    "SchemaError",
    "Silent",
    "Store",
    "issued_of",
]
