"""Informer: a local copy of a resource, kept fresh by list and watch.

Survives what faults.md lists: 410 (lists again; what changed meanwhile is reported, nothing is missed), half-open
connections (silence longer than bookmarks allow ends the watch), API errors (backoff with jitter) and a
CustomResourceDefinition that is absent or appears later (waits).
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from llmwarden.errors import ForbiddenError, NotFoundError, NotInstalledError, RefusedError, UnavailableError
from llmwarden.kube.client import PAGE, Client, path_of
from llmwarden.kube.errors import ExpiredError, ThrottledError

Key = tuple[str, str]
Object = dict[str, Any]
Kept = Any  # an object, or what a transform makes of it: compared by `==`, otherwise not looked into
OnChange = Callable[[Key, Kept | None, Kept | None], None]
Transform = Callable[[Object], Kept | None]

logger = logging.getLogger(__name__)

WATCH_SECONDS = (300, 600)  # the server ends a watch at a random time between: watches of many clients spread
READ_SECONDS = 150.0  # bookmarks come about once a minute; two missed ones mean a dead connection
BACKOFF_SECONDS = (0.5, 30.0)  # first and longest
ABSENT_SECONDS = 10.0  # how often an absent API is asked for again


class Informer:
    """See the module.

    `on_change(key, old, new)` is called, in the event loop and in order, after `items` has changed: old is None for a new
    object, new is None for one that is gone. It must not raise. `transform` shrinks an object before it is kept, or
    returns None to drop it. The key is (namespace, name); the namespace is "" for cluster-scoped objects. `page`: how many whole objects a
    list has in memory at a time.
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
        page: int = PAGE,
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
        self._page = page
        self._items: dict[Key, Kept] = {}
        self._version = ""
        self._watched = False  # whether the present watch has brought anything
        self.items: Mapping[Key, Kept] = MappingProxyType(self._items)
        self.synced = asyncio.Event()  # set after the first complete list, and never cleared
        self.absent = False  # whether the API itself is not installed at present

    @property
    def name(self) -> str:
        """What is watched, for logs."""
        return f"{self._plural}.{self._api_version}" + (f" in {self._namespace}" if self._namespace else "")

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
                logger.warning("%s: %s; again in %.1f s", self.name, error, pause)
            await asyncio.sleep(pause)

    async def _list(self) -> None:
        """Read everything, then report the difference to what we had."""
        found: dict[Key, Object] = {}
        token = ""
        while True:
            page = await self._client.page(
                self._api_version,
                self._plural,
                self._namespace,
                label_selector=self._label_selector,
                field_selector=self._field_selector,
                limit=self._page,
                continue_token=token,
            )
            for item in page.items:
                kept = self._transform(item) if self._transform else item
                if kept is not None:
                    found[_key(item)] = kept
            token = page.continue_token
            if not token:
                break
        for key in [key for key in self._items if key not in found]:
            self._set(key, None)
        for key, item in found.items():
            self._set(key, item)
        self._version = page.resource_version
        self.absent = False
        self.synced.set()

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
        async with contextlib.aclosing(self._client.stream(path, query, self._read_seconds)) as events:
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
            self._set(_key(item), self._transform(item) if self._transform else item)
        elif kind == "DELETED":
            self._set(_key(item), None)

    def _set(self, key: Key, item: Kept | None) -> None:
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
        """Forget all: the API is not there (any more), so nothing of it is."""
        if not self.absent:
            logger.info("%s is not installed; asking again every %.0f s", self.name, self._absent_seconds)
        self.absent = True
        self._version = ""
        for key in list(self._items):
            self._set(key, None)


def _key(item: Object) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
