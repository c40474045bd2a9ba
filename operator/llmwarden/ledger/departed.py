"""Services that are gone, as they were last: what selects them into shared budgets, and whose models they called.

Without this, deleting an LLMService would refill the LLMBudget that it spent from, and let its running pods go.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

from llmwarden.ledger.store import Remembered


class Departed:
    """Keeps what every service (`namespace/name`) was last."""

    def __init__(self, known: Mapping[str, Remembered], spenders: Callable[[], Iterable[str]]) -> None:
        """`known` was remembered in earlier lives; `spenders` gives the services that ever spent anything."""
        self._known = dict(known)
        self._spenders = spenders
        self._unsaved: dict[str, Remembered] = {}

    def __call__(self, present: Mapping[str, Remembered], namespaces: Collection[str]) -> dict[str, Remembered]:
        """Note the services that are there; return those that are gone but have spent, or may have pods that still run.

        Pods run in `namespaces` only: what is gone with its namespace, and has spent nothing, is left out.
        """
        for service, now in present.items():
            if self._known.get(service) != now:
                self._known[service] = now
                self._unsaved[service] = now
        gone = {
            name: known
            for name, known in self._known.items()
            if name not in present and name.partition("/")[0] in namespaces
        }
        # One that spent before it was ever seen has no labels: budgets over all services still count it.
        spent = {name: self._known.get(name, Remembered({})) for name in self._spenders() if name not in present}
        return {**gone, **spent}

    def take_unsaved(self) -> dict[str, Remembered]:
        """Return what has changed since this was last asked."""
        unsaved, self._unsaved = self._unsaved, {}
        return unsaved

    def put_back(self, services: Mapping[str, Remembered]) -> None:
        """Say that these could not be saved."""
        self._unsaved = {**services, **self._unsaved}
