"""Holds what pods report to a plausible pace (`domain/plausible.py`), in the transaction that merges their reports.

Until when a pod has told is kept by pod, not by journal: a pod can begin as many journals as it likes. A number that is as old as a pod can
fall behind says nothing any more, and is dropped (`forget`).

What a row has grown by is plausible or not, as a whole. Implausible growth is counted under the row's key with the mark `quarantined`. What
a journal has reported is both together, so a repeated report changes nothing, whatever became of the one before.
"""

from collections.abc import Mapping, MutableMapping, Sequence

import sqlalchemy as sa

from llmwarden.domain import plausible
from llmwarden.domain.plausible import CATCH_UP_SECONDS, SECOND, Pace
from llmwarden.ledger.store import tables as t
from llmwarden.ledger.store.counts import Counts


class Meters:
    """What the pods of one batch of reports are judged by. `told`: until when each pod (by UID) has told, where that is known."""

    def __init__(self, pace: Pace | None, births: Mapping[str, int], told: Mapping[str, int]) -> None:
        """`pace` None judges nothing; `births` are pods' creation, in seconds since the epoch. One that is not in it is as old as may be."""
        self._pace = pace
        self._births = births
        self._told = dict(told)
        self.moved: MutableMapping[str, int] = {}  # what is to be written, as in `told`

    def plausible(self, pod_uid: str, growth: Sequence[Counts], now: int) -> tuple[bool, ...]:
        """Tell of each row's growth, in one report that came `now` (seconds since the epoch), whether it is plausible."""
        pace = self._pace
        if pace is None or not growth:
            return (True,) * len(growth)
        verdict = plausible.judge(
            [_time(each, pace) for each in growth],
            told_until=self._told.get(pod_uid, 0),
            born=self._births.get(pod_uid, 0) * SECOND,
            now=now * SECOND,
        )
        if verdict.told_until != self._told.get(pod_uid, 0):
            self._told[pod_uid] = self.moved[pod_uid] = verdict.told_until
        return verdict.plausible


def forget(connection: sa.Connection, now: int) -> None:
    """Drop what says nothing any more. `now` is in seconds since the epoch."""
    connection.execute(sa.delete(t.meters).where(t.meters.c.told_until < (now - CATCH_UP_SECONDS) * SECOND))


def _time(growth: Counts, pace: Pace) -> int:
    return plausible.milliseconds(
        growth,
        requests=max(growth.requests, growth.errors, growth.estimated),
        busy_ms=growth.busy_ms,
        streamed_ms=growth.prefill_ms + growth.decode_ms,
        pace=pace,
    )
