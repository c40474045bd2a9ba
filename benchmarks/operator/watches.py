"""What the benchmark sees of the cluster: one watch of all services, one of the metadata of all rules. Nothing is polled."""

import datetime as dt
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import msgspec

from benchmarks.operator.plane import METADATA
from llmwarden import names
from tests.api.support import ControlPlane

Object = dict[str, Any]
Name = tuple[str, str]
SERVICES: Final = f"/apis/{names.API_VERSION}/llmservices"
RULES: Final = "/apis/monitoring.coreos.com/v1/prometheusrules"
_WATCH_SECONDS: Final = "3000"
_ONE_METADATA: Final = METADATA.replace("PartialObjectMetadataList", "PartialObjectMetadata")


class Watch(threading.Thread):
    """Calls `take(type, object)` for every event under a path, from now on; `failed` says why it ended, where it did."""

    def __init__(
        self, api: ControlPlane, path: str, take: Callable[[str, Object], None], *, metadata: bool = False, **query: str
    ) -> None:
        super().__init__(daemon=True)
        self._api, self._path, self._take = api, path, take
        self._query = query
        self._headers = {"Accept": _ONE_METADATA} if metadata else {}
        listed = api.http.get(path, params={**query, "limit": "1"}, headers={"Accept": METADATA}).raise_for_status()
        self._version: str = listed.json()["metadata"]["resourceVersion"]
        self._stopped = False
        self.failed = ""
        self.start()

    def stop(self) -> None:
        """Take no more events. The connection ends with the API server."""
        self._stopped = True

    def run(self) -> None:
        """See threading.Thread."""
        while not self._stopped:
            try:
                self._once()
            except (httpx.HTTPError, msgspec.DecodeError, RuntimeError) as error:
                if not self._stopped:
                    self.failed = f"{self._path}: {error!r}"
                return

    def _once(self) -> None:
        query = {
            **self._query,
            "watch": "true",
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": _WATCH_SECONDS,
        }
        with self._api.http.stream("GET", self._path, params=query, headers=self._headers, timeout=None) as answer:
            answer.raise_for_status()
            rest: list[bytes] = []
            for chunk in answer.iter_bytes():
                *lines, tail = chunk.split(b"\n")
                for line in lines:
                    self._event(b"".join(rest) + line)
                    rest.clear()
                rest.append(tail)
                if self._stopped:
                    return

    def _event(self, line: bytes) -> None:
        if not line:
            return
        event = msgspec.json.decode(line)
        if event["type"] == "ERROR":
            message = f"the watch ended: {event['object'].get('message')}"
            raise RuntimeError(message)
        self._version = event["object"]["metadata"]["resourceVersion"]
        if event["type"] != "BOOKMARK":
            self._take(event["type"], event["object"])


@dataclass
class Seen:
    """What was last seen of a service."""

    generation: int = 0
    observed: int = 0
    ready: str = ""
    alerts: str = ""
    as_of: dt.datetime | None = None
    figures: bool = False
    reasons: dict[str, str] = field(default_factory=dict)


class Services:
    """All services' statuses and all rules' generations, as the watches bring them. `changed` is notified of everything."""

    def __init__(self, api: ControlPlane) -> None:
        self.changed = threading.Condition()
        self.seen: dict[Name, Seen] = {}
        self.rules: dict[Name, int] = {}
        self.converged: set[Name] = set()
        self._statuses: dict[Name, Object] = {}
        self._fields: Counter[str] = Counter()
        label = names.LABEL_SERVICE
        self._watches = [
            Watch(api, SERVICES, self._take_service),
            Watch(api, RULES, self._take_rules, metadata=True, labelSelector=label),
        ]

    def take_fields(self) -> dict[str, int]:
        """How often each field of a status changed since this was last asked: why statuses were written."""
        with self.changed:
            found = dict(self._fields.most_common())
            self._fields.clear()
        return found

    def stop(self) -> None:
        """End the watches."""
        for watch in self._watches:
            watch.stop()

    def wait(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until something holds of what was seen; raises RuntimeError where it does not in time."""
        end = time.monotonic() + seconds
        with self.changed:
            while not holds():
                for watch in self._watches:
                    if watch.failed:
                        raise RuntimeError(watch.failed)
                left = end - time.monotonic()
                if left <= 0:
                    message = f"{what}: not within {seconds:.0f} s"
                    raise RuntimeError(message)
                self.changed.wait(min(left, 5.0))

    def _take_service(self, kind: str, item: Object) -> None:
        metadata, status = item["metadata"], item.get("status") or {}
        name = (metadata["namespace"], metadata["name"])
        conditions = {entry["type"]: entry for entry in status.get("conditions") or []}
        at = status.get("asOf")
        seen = Seen(
            metadata["generation"],
            status.get("observedGeneration", 0),
            conditions.get("Ready", {}).get("status", ""),
            conditions.get("AlertsReady", {}).get("status", ""),
            dt.datetime.fromisoformat(at) if at else None,
            "latency" in status,
            {kind: entry["reason"] for kind, entry in conditions.items() if entry["status"] != "True"},
        )
        before = self._statuses.get(name, {})
        self._statuses[name] = status
        with self.changed:
            self._fields.update(key for key in before | status if before.get(key) != status.get(key))
            if kind == "DELETED":
                self.seen.pop(name, None)
            else:
                self.seen[name] = seen
                # Ready is a verdict about what is measured, too: that it is given is enough, the rules must be there.
                if seen.observed == seen.generation and seen.ready and seen.alerts == "True":
                    self.converged.add(name)
            self.changed.notify_all()

    def _take_rules(self, kind: str, item: Object) -> None:
        metadata = item["metadata"]
        service = metadata["labels"][names.LABEL_SERVICE]
        with self.changed:
            if kind != "DELETED":
                self.rules[metadata["namespace"], service] = metadata["generation"]
            self.changed.notify_all()
