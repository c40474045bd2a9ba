"""Who selects what we make: the Prometheus, Alertmanager and Grafana objects of the cluster, of which only the selectors are kept.

Nothing waits for them: an installation may forbid to read them, and a cluster may have none of their APIs.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from llmwarden.kube import Client, Informer
from llmwarden.manifests.dashboards.delivery import GRAFANA
from llmwarden.manifests.monitors import API_VERSION as MONITORING
from llmwarden.status import selected

Object = dict[str, Any]
KINDS: Final = (
    ("Prometheus", MONITORING, "prometheuses"),
    ("Alertmanager", MONITORING, "alertmanagers"),
    ("Grafana", GRAFANA, "grafanas"),
)


class Choosers:
    """See the module. `on_change` is called when one of them comes, goes or selects by something else."""

    def __init__(self, client: Client, on_change: Callable[[], None]) -> None:
        self._informers = {
            kind: Informer(client, version, plural, transform=selected.strip, on_change=lambda *_: on_change())
            for kind, version, plural in KINDS
        }

    @property
    def informers(self) -> tuple[Informer, ...]:
        """All informers, for whoever runs them."""
        return tuple(self._informers.values())

    @property
    def listed(self) -> tuple[str, ...]:
        """The kinds of which it is known who there is, if anybody."""
        return tuple(kind for kind in self._informers if self._of(kind) is not None)

    def around(
        self, applied: Mapping[tuple[str, str, str], Object], namespaces: Mapping[str, Mapping[str, str]]
    ) -> selected.Around:
        """Put them beside our own objects, as the judgement wants it."""
        return selected.Around(
            prometheuses=self._of("Prometheus"),
            alertmanagers=self._of("Alertmanager"),
            grafanas=self._of("Grafana"),
            applied=applied,
            namespaces=namespaces,
        )

    def _of(self, kind: str) -> tuple[Object, ...] | None:
        """Return all objects of a kind; none where their API is absent; None while that is not known."""
        informer = self._informers[kind]
        if informer.absent:
            return ()
        return tuple(informer.items.values()) if informer.synced.is_set() else None
