"""Status: written only when it changed, at once when a state did. Figures alone are written at most once a minute, and in their turn.

Over all services together no more than so many statuses are written a second in the long run: figures that move all the time would be
the API server's main work. A change of state does not wait, and figures wait longer for it.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from prometheus_client import Counter, Gauge

from llmwarden import names
from llmwarden import status as statuses
from llmwarden.errors import ConflictError, NotFoundError
from llmwarden.kube import Client

Object = dict[str, Any]
Identity = tuple[str, str, str]  # kind, namespace, name
LEAST_SECONDS: Final = 60.0  # between two writes of figures alone
BURST_SECONDS: Final = (
    1.0  # for so long at the rate unused writes are saved up: more would be a burst after each quiet minute
)
DEBT_SECONDS: Final = 60.0  # for at most so long at the rate figures wait for changes of state

WRITTEN = Counter("llmwarden_operator_status_writes", "Statuses written.", ["why"])
POSTPONED = Gauge(
    "llmwarden_operator_status_postponed", "Objects with new figures that wait for their turn to be written."
)


class Rate:
    """A bucket of writes: `per_second` flow in, each write takes one. `clock` is monotonic seconds."""

    def __init__(self, per_second: float, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._clock = clock
        self._left = per_second * BURST_SECONDS
        self._at = clock()

    def left(self) -> int:
        """Return how many writes may be made now; none while changes of state are owed."""
        now = self._clock()
        self._left = min(self._left + (now - self._at) * self._per_second, self._per_second * BURST_SECONDS)
        self._at = now
        return max(0, int(self._left))

    def take(self) -> None:
        """Count a write, whether it was allowed or could not wait."""
        self.left()
        self._left = max(self._left - 1, -self._per_second * DEBT_SECONDS)

    def give_back(self) -> None:
        """Do not count a write that was not needed."""
        self._left += 1


class Takes(Protocol):
    """Takes in an object that the API server has answered with."""

    def __call__(self, kind: str, item: Object, name: tuple[str, str]) -> None:
        """Take in."""


class Publisher:
    """Writes the status of our kinds. `take` is told of each answer; `clock` is monotonic seconds."""

    def __init__(self, client: Client, take: Takes, per_second: float, clock: Callable[[], float]) -> None:
        self._client = client
        self._take = take
        self._clock = clock
        self._rate = Rate(per_second, clock)
        self._at: dict[Identity, float] = {}  # when a status was last written
        self._postponed: OrderedDict[Identity, None] = OrderedDict()
        self._turns: set[Identity] = set()  # whose turn has come; the write is counted already
        POSTPONED.set_function(lambda: len(self._postponed))

    async def publish(self, item: Mapping[str, Any], status: Mapping[str, Any]) -> float | None:
        """Make `status` the status of `item`, as it was last known. Returns after how many seconds to ask again; None: no need.

        An object that is gone, or is another of the same name by now, is no error. Raises UnavailableError and its siblings.
        """
        metadata = item["metadata"]
        key = (item["kind"], metadata.get("namespace", ""), metadata["name"])
        live = item.get("status") or {}
        if _same(live, status):
            self._postponed.pop(key, None)
            if key in self._turns:
                self._turns.remove(key)
                self._rate.give_back()
            return None
        figures = statuses.significant(live) == statuses.significant(status)
        if figures:
            waited = self._clock() - self._at.get(key, float("-inf"))
            if waited < LEAST_SECONDS:
                return LEAST_SECONDS - waited
            # Also an object that is looked at for another reason waits behind those that are in the line.
            first = next(iter(self._postponed), key)
            if key not in self._turns and (first != key or not self._rate.left()):
                self.postpone(*key)
                return None
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": item["kind"],
            # With its uid: a status must not land on another object of the same name.
            "metadata": {field: metadata[field] for field in ("name", "namespace", "uid") if metadata.get(field)},
            "status": status,
        }
        if key in self._turns:
            self._turns.remove(key)
        else:
            self._rate.take()
        try:
            answer = await self._client.apply_status(manifest)
        except (NotFoundError, ConflictError):
            self.forget(*key)
            return None
        WRITTEN.labels("figures" if figures else "state").inc()
        self._at[key] = self._clock()
        self._postponed.pop(key, None)
        self._take(item["kind"], answer, key[1:])
        return None

    def postpone(self, kind: str, namespace: str, name: str) -> None:
        """Put an object whose figures have moved at the end of the line, where it does not stand in it yet."""
        if (kind, namespace, name) not in self._turns:
            self._postponed.setdefault((kind, namespace, name))

    def turns(self) -> list[Identity]:
        """Return whose figures may be written now, those that have waited longest first. Their writes are counted now."""
        turns = [self._postponed.popitem(last=False)[0] for _ in range(min(self._rate.left(), len(self._postponed)))]
        for _ in turns:
            self._rate.take()
        self._turns.update(turns)
        return turns

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """Forget an object that is gone."""
        self._at.pop((kind, namespace, name), None)
        self._postponed.pop((kind, namespace, name), None)
        self._turns.discard((kind, namespace, name))


def _same(live: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    # When the figures were taken changes with every look at them: alone it is no news.
    return {**live, "asOf": None} == {**status, "asOf": None}
