"""Status: written only when it changed, at once when a state did, and else at most once a minute."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from llmwarden import names
from llmwarden.desired import status as statuses
from llmwarden.errors import ConflictError, NotFoundError
from llmwarden.kube import Client, version_of

Object = dict[str, Any]
LEAST_SECONDS: Final = 60.0  # between two writes of figures alone


class Publisher:
    """Writes the status of our kinds. `clock` is monotonic seconds."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._written: dict[tuple[str, str, str], tuple[Object, float]] = {}

    async def publish(self, item: Mapping[str, Any], status: Mapping[str, Any]) -> float | None:
        """Make `status` the status of `item`, as the watch last had it. Returns after how many seconds to ask again; None: no need.

        An object that is gone, or is another of the same name by now, is no error. Raises UnavailableError and its siblings.
        """
        metadata = item["metadata"]
        key = (item["kind"], metadata.get("namespace", ""), metadata["name"])
        live, at = self._live(key, item)
        if _same(live, status):
            return None
        waited = self._clock() - at
        if statuses.significant(live) == statuses.significant(status) and waited < LEAST_SECONDS:
            return LEAST_SECONDS - waited
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": item["kind"],
            # With its uid: a status must not land on another object of the same name.
            "metadata": {field: metadata[field] for field in ("name", "namespace", "uid") if metadata.get(field)},
            "status": status,
        }
        try:
            answer = await self._client.apply_status(manifest)
        except (NotFoundError, ConflictError):
            self._written.pop(key, None)
            return None
        self._written[key] = (answer, self._clock())
        return None

    def _live(self, key: tuple[str, str, str], item: Mapping[str, Any]) -> tuple[Object, float]:
        """Return the newest status known, and when we last wrote it (long ago, where we did not)."""
        written, at = self._written.get(key, (None, float("-inf")))
        if written is None or written["metadata"].get("uid") != item["metadata"].get("uid"):
            return dict(item.get("status") or {}), float("-inf")
        newest = written if version_of(written) > version_of(item) else item
        return dict(newest.get("status") or {}), at

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """Forget an object that is gone."""
        self._written.pop((kind, namespace, name), None)


def _same(live: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    # When the figures were taken changes with every look at them: alone it is no news.
    return {**live, "asOf": None} == {**status, "asOf": None}
