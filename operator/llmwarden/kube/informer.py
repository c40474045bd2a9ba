"""Informer: a local copy of a resource, kept fresh by list and watch.

Survives what faults.md lists: 410 (lists again; what changed meanwhile is reported, nothing is missed), half-open
connections (silence longer than bookmarks allow ends the watch), API errors (backoff with jitter) and a
CustomResourceDefinition that is absent or appears later (waits). A watch that cannot be had is never silent: `fault` says
why, and `llmwarden_watch_up` is 0.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from types import MappingProxyType
from typing import Any

from prometheus_client import Counter, Gauge

from llmwarden import names
from llmwarden.errors import ForbiddenError, NotFoundError, NotInstalledError, RefusedError, UnavailableError
from llmwarden.kube.client import Client, Page, path_of
from llmwarden.kube.errors import ExpiredError, ThrottledError

ObjectName = tuple[str, str]
Object = dict[str, Any]
Kept = Any  # what a transform leaves of an object, which only its user knows
OnChange = Callable[[ObjectName, Kept | None, Kept | None], None]
Transform = Callable[[Object], Kept | None]

logger = logging.getLogger(__name__)

WATCH_SECONDS = (300, 600)  # the server ends a watch at a random time between: watches of many clients spread
READ_SECONDS = 150.0  # bookmarks come about once a minute; two missed ones mean a dead connection
BACKOFF_SECONDS = (0.5, 30.0)  # first and longest
ABSENT_SECONDS = 10.0  # how often an absent API is asked for again

UP = Gauge(names.METRIC_WATCH_UP, "1 while a resource is watched, 0 while its list or watch fails.", ["resource"])
ERRORS = Counter(names.METRIC_WATCH_ERRORS, "Lists and watches of a resource that failed.", ["resource"])


class Informer:
    """See the module.

    `on_change(key, old, new)` is called, in the event loop and in order, after `items` has changed: old is None for a new
    object, new is None for one that is gone. It must not raise. `transform` shrinks an object before it is kept, or
    returns None to drop it. The key is (namespace, name); the namespace is "" for cluster-scoped objects.
    """

    def __init__(
        self,
        client: Client,
        api_version: str,
        plural: str,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        on_change: OnChange | None = None,
        transform: Transform | None = None,
        read_seconds: float = READ_SECONDS,
        backoff_seconds: tuple[float, float] = BACKOFF_SECONDS,
        absent_seconds: float = ABSENT_SECONDS,
    ) -> None:
        self._client = client
        self._api_version = api_version
        self._plural = plural
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._on_change = on_change
        self._transform = transform
        self._read_seconds = read_seconds
        self._backoff = backoff_seconds
        self._absent_seconds = absent_seconds
        self._items: dict[ObjectName, Kept] = {}
        self._version = ""
        self._watched = False  # whether the present watch has brought anything
        ERRORS.labels(self.name)  # so that rules read 0 instead of nothing
        self._failing: tuple[float, str] | None = None  # since when (monotonic seconds) it fails, and with what
        self.items: Mapping[ObjectName, Kept] = MappingProxyType(self._items)
        self.synced = asyncio.Event()  # set after the first complete list, and never cleared
        self.absent = False  # whether the API itself is not installed at present

    @property
    def name(self) -> str:
        """What is watched, for logs."""
        return f"{self._plural}.{self._api_version}" + (f" in {self._namespace}" if self._namespace else "")

    def fault(self, seconds: float) -> str:
        """Say why `items` is not kept fresh, where that is so for at least `seconds`; "" otherwise."""
        if self._failing is None or time.monotonic() - self._failing[0] < seconds:
            return ""
        return self._failing[1]

    def _fails(self, error: Exception) -> None:
        ERRORS.labels(self.name).inc()
        UP.labels(self.name).set(0)
        since = time.monotonic() if self._failing is None else self._failing[0]
        self._failing = (since, str(error))

    def _works(self) -> None:
        UP.labels(self.name).set(1)
        self._failing = None

    async def run(self) -> None:
        """Keep `items` fresh for ever; ends by cancellation only."""
        first, longest = self._backoff
        delay = first
        while True:
            try:
                if not self._version:
                    await self._list()
                self._watched = False
                await self._watch()
                # The server ended the watch in the ordinary way: go on from the last version, after a moment, so that
                # a server that ends every watch at once is not asked in a hot loop.
                delay = first
                pause = random.uniform(0, first)  # noqa: S311 - jitter, no secret
            except ExpiredError:
                logger.info("%s: our version has expired, listing again", self.name)
                self._version = ""
                pause = random.uniform(0, first)  # noqa: S311 - jitter, no secret
            except (NotInstalledError, NotFoundError):
                self._gone()
                pause = self._absent_seconds
            except (UnavailableError, ForbiddenError, RefusedError) as error:
                if self._watched:
                    delay = first
                pause = random.uniform(delay / 2, delay)  # noqa: S311 - jitter, no secret
                if isinstance(error, ThrottledError) and error.retry_after:
                    pause += error.retry_after
                delay = min(delay * 2, longest)
                self._fails(error)
                logger.warning("%s: %s; again in %.1f s", self.name, error, pause)
            await asyncio.sleep(pause)

    async def _list(self) -> None:
        """Read everything, then report the difference to what we had."""
        listed: dict[ObjectName, Kept] = {}
        version = ""
        async with contextlib.aclosing(self._pages(self._namespace)) as pages:
            async for page in pages:
                for item in page.items:
                    kept = self._kept(item)
                    if kept is not None:
                        listed[key_of(item)] = kept
                version = page.resource_version
        self._version = version
        for key in [key for key in self._items if key not in listed]:
            self._missed(key)
        for key, item in listed.items():
            self._set(key, item)
        self.absent = False
        self.synced.set()

    def _pages(self, namespace: str | None) -> AsyncGenerator[Page]:
        """Read all objects, of one namespace or of all, page by page."""
        return self._client.pages(
            self._api_version,
            self._plural,
            namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )

    def _missed(self, key: ObjectName) -> None:
        """Take in that an object is in no list any more."""
        self._set(key, None)

    def _kept(self, item: Object) -> Kept | None:
        """Return what is kept of an object; None for one that is not wanted."""
        return self._transform(item) if self._transform else item

    async def _watch(self) -> None:
        low, high = WATCH_SECONDS
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(low, high)),  # noqa: S311 - spread, no secret
        }
        if self._label_selector:
            query["labelSelector"] = self._label_selector
        if self._field_selector:
            query["fieldSelector"] = self._field_selector
        path = path_of(self._api_version, self._plural, self._namespace)
        async with contextlib.aclosing(self._client.stream(path, query, self._read_seconds, self._works)) as events:
            async for event in events:
                self._watched = True
                self._take(event)

    def _take(self, event: Object) -> None:
        kind, item = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            message = f"{self.name}: {item.get('message', 'the watch failed')} ({item.get('code')})"
            raise ExpiredError(message) if item.get("code") == 410 else UnavailableError(message)  # noqa: PLR2004 - HTTP
        self._version = item.get("metadata", {}).get("resourceVersion") or self._version
        if kind in {"ADDED", "MODIFIED"}:
            self._set(key_of(item), self._kept(item))
        elif kind == "DELETED":
            self._set(key_of(item), None)

    def _set(self, key: ObjectName, item: Kept | None) -> None:
        old = self._items.get(key)
        if item is None:
            if old is None:
                return
            del self._items[key]
        else:
            self._items[key] = item
            if old == item:
                return  # a relist brings what we know: no change
        if self._on_change:
            self._on_change(key, old, item)

    def _gone(self) -> None:
        """Forget all: the API is not there (any more), so nothing of it is. There is nothing to watch, so nothing is amiss."""
        self._works()
        if not self.absent:
            logger.info("%s is not installed; asking again every %.0f s", self.name, self._absent_seconds)
        self.absent = True
        self._version = ""
        for key in list(self._items):
            self._set(key, None)


def key_of(item: Mapping[str, Any]) -> ObjectName:
    """Return (namespace, name) of an object; the namespace is "" for cluster-scoped ones."""
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def version_of(item: Mapping[str, Any]) -> int:
    """Return the resourceVersion as the number that it is (KEP-5504); 0 where it is none."""
    text = item["metadata"].get("resourceVersion", "")
    return int(text) if text.isdigit() else 0
