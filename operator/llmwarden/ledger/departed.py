"""Labels of services that are gone but have spent: what selects them into shared budgets.

Without this, deleting an LLMService would refill the LLMBudget that it spent from.
"""

from collections.abc import Callable, Iterable, Mapping

Labels = Mapping[str, str]


class Departed:
    """Keeps the last known labels of every service (`namespace/name`)."""

    def __init__(self, known: Mapping[str, Labels], spenders: Callable[[], Iterable[str]]) -> None:
        """`known` was remembered in earlier lives; `spenders` gives the services that ever spent anything."""
        self._known = dict(known)
        self._spenders = spenders
        self._unsaved: dict[str, Labels] = {}

    def __call__(self, present: Mapping[str, Labels]) -> dict[str, Labels]:
        """Note the labels of the services that are there; return those of the ones that are gone but have spent."""
        for service, labels in present.items():
            if self._known.get(service) != labels:
                self._known[service] = dict(labels)
                self._unsaved[service] = self._known[service]
        # One that spent before its labels were ever seen has none: budgets over all services still count it.
        return {name: self._known.get(name, {}) for name in self._spenders() if name not in present}

    def take_unsaved(self) -> dict[str, Labels]:
        """Return what has changed since this was last asked."""
        unsaved, self._unsaved = self._unsaved, {}
        return unsaved

    def put_back(self, labels: Mapping[str, Labels]) -> None:
        """Say that these could not be saved."""
        self._unsaved = {**labels, **self._unsaved}
