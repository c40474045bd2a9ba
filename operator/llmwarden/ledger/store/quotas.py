"""Quotas: how many rows one journal and one namespace may have of their own. What is beyond them is folded, without losing a token.

A new row is placed once, and stays where it was placed:

1. By itself, while its journal has fewer than `journal_rows` rows in the row's bucket and its namespace fewer than `namespace_rows`.
2. With its labels replaced by `names.FOLDED`, when there is no room for it by itself. Its price stays what it was. Rows without labels
   and rows that are folded in this way have twice the journal's room, so that labels cannot use up the room of models.
3. Otherwise with its model, price, context and tier replaced, too: one row for each service, provider and bucket. Such tokens have no
   price. A budget in dollars counts them at the most expensive price of the provider (`rating.dearest`).

Rows are cumulative, and the largest report of each counts. A folded row is therefore a sum of maxima: `folded` keeps the counters of each row
that went into it, under a digest of the row's key, so that duplicates and reordering change nothing there either. A journal has at most
`journal_folded` of them. Rows beyond that are counted in full by each newer report of their journal: nothing is lost, but a row that is
reported twice counts twice. A proxy cannot come that far: it bounds its own labels, and no provider has so many models.

The digest is keyed by the journal's name, which the application does not know: it cannot find two rows that become one.

`Quotas.used` counts a row as one unit, and a key that was never there before as `KEY_UNITS` more.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

import msgspec

from llmwarden import names
from llmwarden.domain import upstream
from llmwarden.ledger.store.counts import Counts
from llmwarden.ledger.store.model import RowKey

KEY_UNITS: Final = 16  # a key with its index takes at most as much room as so many rows
RESERVE: Final = 1.1  # of a namespace's rows: room for rows whose labels were folded
KNOWN_PROVIDERS: Final = frozenset(backend.provider for backend in upstream.BACKENDS.values())
_DIGEST_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Quota:
    """See the module; `namespace_unpriced` are rows without a price, which are also kept in memory to be priced later."""

    journal_rows: int = 1000
    journal_folded: int = 4000
    namespace_rows: int = 2_000_000
    namespace_unpriced: int = 100_000


class Sizes(NamedTuple):
    """What a journal has on the disk: units of rows, and rows that are remembered though they are folded."""

    units: int = 0
    folded: int = 0


NOTHING: Final = Sizes()


class FoldedRow(NamedTuple):
    """A folded row: whether all of it was replaced or only its labels, and its own counters."""

    whole: bool
    counts: Counts


class Known(Protocol):
    """Of `merge.Journal`."""

    id: int
    name: str
    sizes: Sizes
    rows: dict[tuple[int, int], Counts]
    folded: dict[tuple[int, int], FoldedRow]


class Place(NamedTuple):
    """Where a row counts. `digest` None: by itself if `key` is its own, else folded and not remembered."""

    key: RowKey
    digest: int | None = None
    whole: bool = False


class Ids(Protocol):
    """Of `KeyIds`."""

    def get(self, key: RowKey) -> int | None:
        """Return a key's id, None where it has none yet."""
        ...


@dataclass(slots=True)
class Quotas:
    """What is used, by namespace, as far as this replica knows. `unpriced` tells how many rows without a price are in memory, and
    `settled` whether a key has a price."""  # noqa: D205, D209 - one sentence

    quota: Quota = field(default_factory=Quota)
    used: Counter[str] = field(default_factory=Counter)
    unpriced: Callable[[str], int] = lambda _: 0
    settled: Callable[[RowKey], bool] = lambda key: bool(key.price_id)

    def share(self, namespace: str) -> float:
        """Return the share of its quotas that a namespace uses: of the fuller one."""
        return max(
            self.used[namespace] / self.quota.namespace_rows,
            self.unpriced(namespace) / self.quota.namespace_unpriced,
        )


class Sorter:
    """Places the rows of one transaction. `added` and `sizes` are what that adds; tell `Quotas` once it is committed."""

    def __init__(self, quotas: Quotas, ids: Ids) -> None:
        self._quotas = quotas
        self._quota = quotas.quota
        self._ids = ids
        self.added: Counter[str] = Counter()  # units, by namespace
        self.sizes: dict[int, Sizes] = {}  # by journal id
        self._unpriced: Counter[str] = Counter()
        self._kept: set[tuple[int, RowKey, int]] = set()
        self._folded: dict[tuple[int, int, int], Place] = {}  # by journal id, bucket and digest
        self._keys: set[RowKey] = set()
        self._in_bucket: dict[tuple[int, int], int] = {}

    def place(self, journal: Known, key: RowKey, bucket: int) -> Place:
        """Say where a row of a journal counts. The same row always counts at the same place."""
        if self._is_kept(journal, key, bucket):
            return Place(key)
        digest = _digest(journal.name, key)
        known = journal.folded.get((bucket, digest)) if journal.folded else None
        if known is not None:
            return Place(_all(key) if known.whole else _labels(key), digest, known.whole)
        placed = self._folded.get((journal.id, bucket, digest)) if self._folded else None
        if placed is not None:
            return placed
        labelled = bool(key.feature or key.team or key.cohort)
        if self._keep(journal, key, bucket, reserved=not labelled):
            return Place(key)
        whole = not (labelled and self._keep(journal, _labels(key), bucket, reserved=True))
        target = _all(key) if whole else _labels(key)
        if whole and not self._is_kept(journal, target, bucket):
            self._add(journal, target, bucket, self._units(target))
        sizes = self.sizes.get(journal.id, NOTHING)
        if journal.sizes.folded + sizes.folded >= self._quota.journal_folded:
            return Place(target, None, whole)
        self.sizes[journal.id] = Sizes(sizes.units, sizes.folded + 1)
        placed = self._folded[journal.id, bucket, digest] = Place(target, digest, whole)
        return placed

    def _is_kept(self, journal: Known, key: RowKey, bucket: int) -> bool:
        key_id = self._ids.get(key)
        if key_id is not None and (bucket, key_id) in journal.rows:
            return True
        return (journal.id, key, bucket) in self._kept

    def _keep(self, journal: Known, key: RowKey, bucket: int, *, reserved: bool) -> bool:
        """Keep a row by itself if there is room for it, or if it is there already."""
        if self._is_kept(journal, key, bucket):
            return True
        quota, namespace = self._quota, key.namespace
        place = (journal.id, bucket)
        if place not in self._in_bucket:
            self._in_bucket[place] = sum(at == bucket for at, _ in journal.rows)
        if self._in_bucket[place] >= quota.journal_rows * (2 if reserved else 1):
            return False
        units = self._units(key)
        most = quota.namespace_rows * (RESERVE if reserved else 1)
        if self._quotas.used[namespace] + self.added[namespace] + units > most:
            return False
        if not self._quotas.settled(key):
            if self._quotas.unpriced(namespace) + self._unpriced[namespace] >= quota.namespace_unpriced:
                return False
            self._unpriced[namespace] += 1
        self._add(journal, key, bucket, units)
        return True

    def _add(self, journal: Known, key: RowKey, bucket: int, units: int) -> None:
        self._kept.add((journal.id, key, bucket))
        self._keys.add(key)
        place = (journal.id, bucket)
        self._in_bucket[place] = self._in_bucket.get(place, 0) + 1
        self.added[key.namespace] += units
        sizes = self.sizes.get(journal.id, NOTHING)
        self.sizes[journal.id] = Sizes(sizes.units + units, sizes.folded)

    def _units(self, key: RowKey) -> int:
        return 1 if key in self._keys or self._ids.get(key) is not None else 1 + KEY_UNITS


def targets(keys: Collection[RowKey]) -> set[RowKey]:
    """Every key that rows of these may count under."""
    return {target for key in keys for target in (key, _labels(key), _all(key))}


def committed(quotas: Quotas, added: Mapping[str, int]) -> None:
    """Count what a transaction has added."""
    quotas.used.update(added)


def _labels(key: RowKey) -> RowKey:
    return key._replace(feature=names.FOLDED, team=names.FOLDED, cohort=names.FOLDED)


def _all(key: RowKey) -> RowKey:
    provider = key.provider if key.provider in KNOWN_PROVIDERS else names.FOLDED
    return RowKey(key.namespace, key.service, provider, names.FOLDED, "", 0, "", *[names.FOLDED] * 3)


def _digest(journal: str, key: RowKey) -> int:
    keyed = blake2b(journal.encode(errors="replace"), digest_size=32).digest()
    found = blake2b(msgspec.json.encode(key), digest_size=_DIGEST_BYTES, key=keyed).digest()
    return int.from_bytes(found, "big", signed=True)
