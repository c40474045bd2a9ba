"""ScopedInformer: a copy of one kind in some namespaces, kept fresh by one watch of the whole cluster.

Watches do not multiply with namespaces: two for each of thousands would be as many connections. What is in other namespaces is dropped as
it arrives. A namespace that is included later is listed by itself.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from llmwarden.errors import WardenError
from llmwarden.kube.informer import BACKOFF_SECONDS, Informer, Kept, Object, ObjectName, key_of, version_of

logger = logging.getLogger(__name__)


class ScopedInformer(Informer):
    """See the module. Nothing is kept before `include` is called."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._started = False
        self._by_namespace: dict[str, dict[ObjectName, Kept]] = {}
        self._fills: dict[str, asyncio.Task[None]] = {}
        self._seen: dict[
            str, dict[ObjectName, int]
        ] = {}  # by namespace that is being listed: the versions that the watch brought meanwhile
        self._lists = 0
        self._late: set[str] = set()  # namespaces that were included since the last list of the cluster was started

    def of(self, namespace: str) -> Mapping[ObjectName, Kept]:
        """Return the objects of a namespace; empty where it is not included."""
        return self._by_namespace.get(namespace, {})

    def complete(self, namespace: str) -> bool:
        """Tell whether all objects of an included namespace are known."""
        return self.synced.is_set() and namespace in self._by_namespace and namespace not in self._fills

    def include(self, namespace: str) -> None:
        """Keep the objects of a namespace from now on; they arrive in the background."""
        if namespace in self._by_namespace:
            return
        self._by_namespace[namespace] = {}
        if not self._started:
            return  # the first list of the cluster brings it
        self._late.add(namespace)
        self._seen[namespace] = {}
        self._fills[namespace] = asyncio.create_task(self._fill(namespace), name=f"list {self.name} of {namespace}")

    def exclude(self, namespace: str) -> None:
        """Forget a namespace, without a word: nobody asks for it any more."""
        for key in self._by_namespace.pop(namespace, {}):
            del self._items[key]
        self._seen.pop(namespace, None)
        fill = self._fills.pop(namespace, None)
        if fill is not None:
            fill.cancel()

    async def run(self) -> None:
        """Keep `items` fresh for ever; ends by cancellation only."""
        self._started = True
        try:
            await super().run()
        finally:
            for fill in self._fills.values():
                fill.cancel()

    async def _fill(self, namespace: str) -> None:
        """List one namespace, until that succeeds."""
        delay, longest = BACKOFF_SECONDS
        await self.synced.wait()  # of an absent API there is nothing to list
        while True:
            lists = self._lists
            try:
                items = await self._found(namespace)
            except WardenError as error:
                logger.warning("%s of %s: %s; again in %.1f s", self.name, namespace, error, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, longest)
                continue
            if lists == self._lists:
                break  # else a list of the whole cluster, which may be newer, has come between: what it left out is gone
        seen = self._seen.pop(namespace)
        del self._fills[namespace]
        for item in items:
            key = key_of(item)
            if seen.get(key, -1) < version_of(item):  # the watch may be ahead of the list, and may have seen things go
                self._set(key, self._kept(item))

    async def _found(self, namespace: str) -> list[Object]:
        items: list[Object] = []
        async with contextlib.aclosing(self._pages(namespace)) as pages:
            async for page in pages:
                items += page.items
        return items

    async def _list(self) -> None:
        self._late.clear()
        await super()._list()
        self._lists += 1

    def _missed(self, key: ObjectName) -> None:
        # Of a late namespace the first pages were not kept. Its own list is newer than the cluster's, from where the watch goes on.
        if key[0] not in self._late:
            super()._missed(key)

    def _take(self, event: Object) -> None:
        item = event.get("object") or {}
        if "name" in item.get("metadata", {}):
            key = key_of(item)
            if key[0] in self._seen:
                self._seen[key[0]][key] = version_of(item)
        super()._take(event)

    def _kept(self, item: Object) -> Kept | None:
        return super()._kept(item) if key_of(item)[0] in self._by_namespace else None

    def _set(self, key: ObjectName, item: Kept | None) -> None:
        of_namespace = self._by_namespace.get(key[0])
        if of_namespace is None:
            return
        if item is None:
            of_namespace.pop(key, None)
        else:
            of_namespace[key] = item
        super()._set(key, item)
