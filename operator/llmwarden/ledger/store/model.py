"""What goes into the store and comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from llmwarden.contracts import ledger as wire
from llmwarden.domain.cost import Rates
from llmwarden.errors import UnavailableError
from llmwarden.ledger.store.counts import Counts

QUARANTINED: Final = "quarantined"
"""Mark of growth that is implausible (`meters.py`): shared budgets do not count it until the platform releases it."""
WRITTEN_OFF: Final = "written-off"
"""Mark of what the platform wrote off: negative counters beside the ordinary ones."""
QUARANTINED_WRITTEN_OFF: Final = "quarantined-written-off"
"""Mark of what the platform wrote off of quarantined usage: negative counters beside the quarantined ones."""
RELEASED: Final = {QUARANTINED: "", QUARANTINED_WRITTEN_OFF: WRITTEN_OFF}
"""What a release makes of the marks."""


class BehindError(UnavailableError):
    """What others committed cannot be followed any more (too much, or an older database): read everything anew."""


class Issued(NamedTuple):
    """A price, and what it was handed out for."""

    provider: str
    model: str
    price_id: str


class Remembered(NamedTuple):
    """What a service (`namespace/name`) was when it was last seen: it still holds for its pods once it is gone."""

    labels: Mapping[str, str]
    provider: str = ""


class RowKey(NamedTuple):
    """The labels by which the counters are kept apart. `price_id` is "" where no price was known.

    `mark` is "" for ordinary usage. Sums are sums over all marks: what is written off is negative. Only what is quarantined is left out of
    some sums, those of shared budgets.
    """

    namespace: str
    service: str
    provider: str
    model: str
    price_id: str
    context: int
    tier: str
    feature: str
    team: str
    cohort: str
    mark: str = ""

    @property
    def quarantined(self) -> bool:
        """Whether shared budgets leave it out."""
        return self.mark in RELEASED

    @property
    def written_off(self) -> bool:
        """Whether it is a part of a write-off: its counters are negative."""
        return self.mark in {WRITTEN_OFF, QUARANTINED_WRITTEN_OFF}

    def delta(self, bucket: int, counts: Counts) -> "Delta":
        """As the aggregate takes it."""
        service, price_id = f"{self.namespace}/{self.service}", self.price_id or None
        return Delta(service, self.provider, self.model, price_id, bucket, counts, self.context, self.tier, self.mark)


def key_of(namespace: str, row: wire.Row) -> RowKey:
    """Return the key of a reported row."""
    labels = row.labels
    return RowKey(
        namespace,
        row.service,
        row.provider,
        row.model,
        row.price_id or "",
        row.context,
        row.tier,
        labels.feature,
        labels.team,
        labels.cohort,
    )


@dataclass(frozen=True, slots=True)
class Delta:
    """By how much one key has grown through a report (or, negative, shrunk by a correction); `service` is `namespace/name`."""

    service: str
    provider: str
    model: str
    price_id: str | None
    bucket: int
    counts: Counts
    context: int = 0
    tier: str = ""
    mark: str = ""  # see RowKey

    @property
    def quarantined(self) -> bool:
        """Whether shared budgets leave it out."""
        return self.mark in RELEASED

    @property
    def written_off(self) -> bool:
        """Whether it is a part of a write-off."""
        return self.mark in {WRITTEN_OFF, QUARANTINED_WRITTEN_OFF}


def issued_of(row: wire.Row | Delta) -> Issued | None:
    """The price that a row claims; None where it claims none."""
    return None if row.price_id is None else Issued(row.provider, row.model, row.price_id)


@dataclass(frozen=True, slots=True)
class Merged:
    """What a report changed.

    `backwards`: rows in which some counter was below what was known (nothing is taken back). `folded`: rows left out because
    their bucket was folded long ago: they are counted. `latest`: no newer report of the journal was there: its leases count.
    `others`: rows that count under `names.FOLDED` because of a quota, `unremembered`: those of them that count in full (`quotas.py`).
    `quarantined`: rows whose growth is implausible.
    """

    deltas: tuple[Delta, ...]
    backwards: int = 0
    folded: int = 0
    latest: bool = True
    journal_id: int = 0
    others: int = 0
    unremembered: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """What a transaction changed, report by report; `foreign` is what other replicas (or a commit whose answer was lost) had
    changed before, and `prices` are prices that others handed out. Both come first."""  # noqa: D205, D209 - one sentence each

    merged: tuple[Merged, ...]
    foreign: tuple[Delta, ...] = ()
    prices: dict[Issued, Rates] = field(default_factory=dict)
    # By budget and journal id, the balances that these reports' journals have now; and the journals whose last report was among them.
    balances: Mapping[tuple[str, int], int] = field(default_factory=dict)
    ended: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class PriceRecord:
    """A price to remember, and what it is handed out for."""

    issued: Issued
    rates: Rates
