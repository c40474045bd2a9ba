"""Who may ask and report, and how much of one pod is served at a time: see `ledger.pods` for what is known of a pod.

- A pod that was not injected gets 403 `not_injected`, for reports, configuration and prices alike.
- A pod asks and reports only for services that it was injected for. Rows of others are left out and counted.
- A pod that is only just created may be ahead of our copy of the cluster: it gets 503 and reports again.
- A pod has few reports under way at a time, and few journals: more of them are 429.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from llmwarden.contracts import ledger as wire
from llmwarden.ledger.pods import Injected, Pods
from llmwarden.serving.answers import RETRY_SECONDS, Refusal
from llmwarden.serving.auth import Caller

YOUNG_SECONDS: Final = 300.0  # a pod's age below which a service of its that we do not know is believed to be new
MOST_UNDER_WAY: Final = 2  # reports of one pod: a proxy sends one after the other
MOST_JOURNALS: Final = (
    8  # of one pod in one life of the ledger: a proxy begins another only where its volume was damaged
)
REMEMBERED: Final = 20_000  # pods
MOST_PRICES: Final = (
    5000  # first handed out to one namespace in one life of the ledger; the public table has about a thousand
)
NOT_INJECTED: Final = "not_injected"


class Reporters:
    """See the module. `knows` tells whether a service (`namespace/name`) is there, was there or has spent anything; `synced` whether all
    of them have been read."""  # noqa: D205, D209 - one sentence

    def __init__(self, pods: Pods, knows: Callable[[str], bool], synced: Callable[[], bool]) -> None:
        self._pods = pods
        self._knows = knows
        self._synced = synced
        self._under_way: dict[str, int] = {}
        self._journals: OrderedDict[str, set[str]] = OrderedDict()
        self._prices: Counter[str] = Counter()  # by namespace

    async def injected(self, caller: Caller) -> Injected:
        """What a pod was injected for. Raises a Refusal where it was not, UnavailableError where that cannot be found out now."""
        found = await self._pods.injected(caller)
        if not found.services:
            message = f"pod {caller.namespace}/{caller.pod_name} was not injected for any LLMService: a token is no proof of that"
            raise Refusal(403, NOT_INJECTED, message)
        return found

    async def asking(self, caller: Caller, services: Collection[str]) -> None:
        """Let a pod ask for services (bare names) that it was injected for. Raises as `injected`."""
        found = await self.injected(caller)
        others = [name for name in services if name not in found.services]
        if others:
            message = f"pod {caller.namespace}/{caller.pod_name} was not injected for {', '.join(others)[:200]}"
            raise Refusal(403, NOT_INJECTED, message)

    async def reporting(self, caller: Caller, now: float) -> Injected:
        """Return the services that a pod may report for, and when it was created. `now` is in seconds since the epoch. Raises as `injected`."""
        found = await self.injected(caller)
        if self._synced() and now - found.created < YOUNG_SECONDS:
            unknown = [name for name in found.services if not self._knows(f"{caller.namespace}/{name}")]
            if unknown:
                message = f"the ledger has not yet read LLMService {unknown[0]}: report again"
                raise Refusal(503, "unknown_service", message, RETRY_SECONDS)
        return found

    @contextmanager
    def under_way(self, report: wire.Report) -> Iterator[None]:
        """Hold one of a pod's places while its report is taken. Raises a Refusal where it has none left."""
        uid = report.pod.uid
        self._note(uid, report.journal)
        if self._under_way.get(uid, 0) >= MOST_UNDER_WAY:
            message = f"{MOST_UNDER_WAY} reports of this pod are under way: send one after the other"
            raise Refusal(429, "too_many_reports", message, 1)
        self._under_way[uid] = self._under_way.get(uid, 0) + 1
        try:
            yield
        finally:
            self._under_way[uid] -= 1
            if not self._under_way[uid]:
                del self._under_way[uid]

    def may_record_price(self, namespace: str) -> bool:
        """Whether one more price may be recorded for a namespace. Without that, rows are rated as if they had no id."""
        self._prices[namespace] += 1
        return self._prices[namespace] <= MOST_PRICES

    def _note(self, uid: str, journal: str) -> None:
        journals = self._journals.setdefault(uid, set())
        if journal not in journals:
            if len(journals) >= MOST_JOURNALS:
                message = f"the pod has reported {MOST_JOURNALS} journals already; a proxy has one"
                raise Refusal(429, "too_many_journals", message, 60)
            journals.add(journal)
        self._journals.move_to_end(uid)
        while len(self._journals) > REMEMBERED:
            self._journals.popitem(last=False)


def own(report: wire.Report, services: Collection[str]) -> tuple[wire.Report, int]:
    """Return the report without rows of services that its pod was not injected for, and how many were left out."""
    if all(row.service in services for row in report.rows):
        return report, 0
    rows = tuple(row for row in report.rows if row.service in services)
    return msgspec.structs.replace(report, rows=rows), len(report.rows) - len(rows)
