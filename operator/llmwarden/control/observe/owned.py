"""OwnedInformer: our own objects of one kind. The answer to a write is known here at once; the watch brings it again later."""

import time
from collections.abc import Callable
from typing import Any, Final

from llmwarden.control import child
from llmwarden.control.child import Child
from llmwarden.kube import Informer, version_of
from llmwarden.kube.informer import Kept, Object, ObjectName, key_of

ASSUMED_SECONDS: Final = 60.0  # after this the watch is believed whatever it says


class OwnedInformer(Informer):
    """A copy of our own objects of one kind, in which our writes are known before the watch tells of them.

    `on_change` is not called for what a write of ours has already told.
    """

    def __init__(
        self, *arguments: Any, transform: Callable[[Object], Kept | None] | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, transform=transform or _child, **options)
        self._assumed: dict[
            ObjectName, tuple[int, float]
        ] = {}  # version, and until when (monotonic seconds) it is believed

    def written(self, item: Object) -> Kept:
        """Take in what the API server answered to a write of ours; returns what is kept of it.

        A watch that has told of something newer has told of this write, too, and of what became of the object since.
        """
        key, kept, version = key_of(item), self._kept(item), version_of(item)
        if version > self._reached:
            self._assumed[key] = (version, time.monotonic() + ASSUMED_SECONDS)
            self._items[key] = kept
        return kept

    def deleted(self, key: ObjectName) -> None:
        """Take in that we have deleted an object. The watch tells of what comes after it."""
        self._assumed.pop(key, None)
        self._items.pop(key, None)

    @property
    def _reached(self) -> int:
        """The version up to which list and watch have told everything; 0 while a list is wanted."""
        return int(self._version) if self._version.isdigit() else 0

    def _newer(self, key: ObjectName) -> int | None:
        """Return the version of our own write that the watch has not reached yet."""
        version, until = self._assumed.get(key, (0, 0.0))
        if time.monotonic() >= until:
            self._assumed.pop(key, None)
            return None
        return version

    def _take(self, event: Object) -> None:
        if event.get("type") in {"ADDED", "MODIFIED", "DELETED"}:
            key, version = key_of(event["object"]), version_of(event["object"])
            newer = self._newer(key)
            if newer is not None and version < newer:
                self._version = str(version)
                return
            # The write itself, too: an older list may have undone it here.
            self._assumed.pop(key, None)
        super()._take(event)

    def _missed(self, key: ObjectName) -> None:
        newer = self._newer(key)
        if newer is None or newer <= self._reached:  # else the list is older than our write
            self._assumed.pop(key, None)
            super()._missed(key)


def _child(item: Object) -> Child:
    return child.of(item, version_of(item))
