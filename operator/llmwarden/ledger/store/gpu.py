"""GPUs that pods held, on the disk: `gpu_pods` has each pod's span, `gpu_held` the sums of their time by bucket.

As with calls (`rows` and `spend`), a report grows a pod's span, and in the same transaction the sums by just that growth:
repeats, lost answers and restarts change nothing. `gpu_held.changed` is the change number of the transaction that wrote a row:
replicas (and the one that wrote) read what is newer than what they have.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from llmwarden.domain import spans
from llmwarden.domain.spans import Span
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.engine import Database
from llmwarden.ledger.store.statements import chunks


class PodKey(NamedTuple):
    """A pod's GPUs of one resource (such as nvidia.com/gpu), as a service's."""

    namespace: str
    service: str
    uid: str
    resource: str


class PodSpan(NamedTuple):
    """What was told of a pod; `rate` is OpenCost's for its node, in picodollars an hour of one GPU, 0 where there is none."""

    key: PodKey
    name: str
    product: str
    gpus: int
    serves: bool
    span: Span
    rate: int = 0


class HeldSum(NamedTuple):
    """GPU time of a service (`namespace/name`) in a bucket: GPUs times milliseconds, and milliseconds of pods that serve."""

    service: str
    product: str
    rate: int
    bucket: int
    gpu_ms: int
    pod_ms: int


class Lost(NamedTuple):
    """A pod whose end nobody saw."""

    key: PodKey
    name: str
    until: int


Place = tuple[str, str, str, int, int]
_KNOWN: Final = tuple(t.gpu_pods.c[name] for name in ("since", "until", "ended", "product", "rate", "gpus"))


class _Known(NamedTuple):
    """What the database has of a pod: its span, and what that was counted as."""

    span: Span
    product: str
    rate: int
    gpus: int


def take(database: Database, connection: sa.Connection, number: int, told: Sequence[PodSpan]) -> None:
    """Merge what was told, in the connection's transaction, which holds the lock of the change number `number`."""
    known = _known(connection, {one.key for one in told})
    fresh: dict[PodKey, dict[str, Any]] = {}
    grown: dict[Place, list[int]] = {}
    for one in told:
        old = known.get(one.key)
        new = one.span if old is None else spans.merge(old.span, one.span)
        product, rate = one.product, one.rate
        if old is not None:
            # Where the node's labels, or OpenCost, cannot be read any more, it is what it was.
            product = old.product if product == one.key.resource else product
            rate = rate or old.rate
        known[one.key] = _Known(new, product, rate, one.gpus)
        counted = old
        if old is not None and ((product, one.gpus) != (old.product, old.gpus) or (rate and not old.rate)):
            # They came after the pod: what was counted of it is counted anew.
            taken_back = spans.growth(old.span, Span(old.span.since, old.span.since))
            _count(grown, one, (old.product, old.rate, old.gpus), taken_back)
            counted = None
        _count(grown, one, (product, rate, one.gpus), spans.growth(counted.span if counted else None, new))
        fresh[one.key] = {
            **one.key._asdict(),
            "pod_name": one.name,
            "product": product,
            "rate": rate,
            "gpus": one.gpus,
            "since": new.since,
            "until": new.until,
            "ended": new.ended,
            "lost": False,
        }
    if fresh:
        upsert = database.insert(t.gpu_pods)
        changing = ("pod_name", "product", "rate", "gpus", "since", "until", "ended", "lost")
        connection.execute(
            upsert.on_conflict_do_update(
                index_elements=list(PodKey._fields), set_={name: upsert.excluded[name] for name in changing}
            ),
            list(fresh.values()),
        )
    if grown:
        held = database.insert(t.gpu_held)
        columns = t.gpu_held.c
        names = ("namespace", "service", "product", "rate", "bucket")
        connection.execute(
            held.on_conflict_do_update(
                index_elements=list(names),
                set_={
                    "gpu_ms": columns.gpu_ms + held.excluded["gpu_ms"],
                    "pod_ms": columns.pod_ms + held.excluded["pod_ms"],
                    "changed": held.excluded["changed"],
                },
            ),
            [
                {**dict(zip(names, place, strict=True)), "gpu_ms": gpu, "pod_ms": pod, "changed": number}
                for place, (gpu, pod) in grown.items()
            ],
        )


def held(connection: sa.Connection, after: int, since: int) -> tuple[list[HeldSum], int]:
    """Sums that changed after a number, of buckets from `since` on (seconds since the epoch), and the number they are of."""
    columns = t.gpu_held.c
    query = sa.select(
        columns.namespace,
        columns.service,
        columns.product,
        columns.rate,
        columns.bucket,
        columns.gpu_ms,
        columns.pod_ms,
        columns.changed,
    ).where(columns.changed > after, columns.bucket >= since)
    found: list[HeldSum] = []
    newest = after
    for namespace, service, product, rate, bucket, gpu_ms, pod_ms, changed in connection.execute(query):
        found.append(HeldSum(f"{namespace}/{service}", product, rate, bucket, gpu_ms, pod_ms))
        newest = max(newest, changed)
    return found, newest


def lose(connection: sa.Connection, before: int) -> list[Lost]:
    """Mark pods that have not ended and were last told of before a time as lost; returns those that were not yet."""
    columns = t.gpu_pods.c
    open_ = sa.and_(sa.not_(columns.ended), sa.not_(columns.lost), columns.until < before)
    found = connection.execute(
        sa.update(t.gpu_pods)
        .where(open_)
        .values(lost=True)
        .returning(columns.namespace, columns.service, columns.uid, columns.resource, columns.pod_name, columns.until)
    )
    return [Lost(PodKey(*row[:4]), row[4], row[5]) for row in found]


def lost(connection: sa.Connection, since: int) -> Mapping[str, int]:
    """By service (`namespace/name`), how many pods were lost and last seen since a time."""
    columns = t.gpu_pods.c
    query = (
        sa.select(columns.namespace, columns.service, sa.func.count(columns.uid.distinct()))
        .where(columns.lost, columns.until >= since)
        .group_by(columns.namespace, columns.service)
    )
    return {f"{namespace}/{service}": int(count) for namespace, service, count in connection.execute(query)}


def forget(connection: sa.Connection, before: int) -> None:
    """Drop pods whose time is long over; the sums of their time stay."""
    connection.execute(sa.delete(t.gpu_pods).where(t.gpu_pods.c.until < before))


def _count(
    grown: dict[Place, list[int]], one: PodSpan, counted: tuple[str, int, int], growth: Mapping[int, int]
) -> None:
    """Add growth as GPUs of a product at a rate: `counted` is product, rate and number."""
    product, rate, gpus = counted
    for bucket, milliseconds in growth.items():
        sums = grown.setdefault((one.key.namespace, one.key.service, product, rate, bucket), [0, 0])
        sums[0] += milliseconds * gpus
        sums[1] += milliseconds if one.serves else 0


def _known(connection: sa.Connection, keys: Iterable[PodKey]) -> dict[PodKey, _Known]:
    wanted = set(keys)
    found: dict[PodKey, _Known] = {}
    for chunk in chunks(sorted({key.uid for key in wanted})):
        query = sa.select(*(t.gpu_pods.c[name] for name in PodKey._fields), *_KNOWN).where(t.gpu_pods.c.uid.in_(chunk))
        for *names, since, until, ended, product, rate, gpus in connection.execute(query):
            key = PodKey(*names)
            if key in wanted:
                found[key] = _Known(Span(since, until, bool(ended)), product, rate, gpus)
    return found
