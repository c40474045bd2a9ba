"""Events that say something once: the same words about the same object are not repeated within an hour."""

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from llmwarden.errors import WardenError
from llmwarden.kube import Client

logger = logging.getLogger(__name__)

QUIET: Final = dt.timedelta(hours=1)
REMEMBERED: Final = 10_000  # entries; beyond that the oldest are forgotten


class Events:
    """Records Events, deduplicated. An Event that cannot be written is logged: it must not hold up the work that it tells of."""

    def __init__(self, client: Client, now: Callable[[], dt.datetime]) -> None:
        self._client = client
        self._now = now
        self._said: dict[tuple[str, str], dt.datetime] = {}

    async def say(self, regarding: Mapping[str, Any], reason: str, message: str, *, warning: bool = False) -> None:
        """Record an Event about an object, unless it was said lately."""
        now = self._now()
        key = (str(regarding["metadata"].get("uid")), f"{reason}/{message}")
        said = self._said.get(key)
        if said is not None and now - said < QUIET:
            return
        self._said.pop(key, None)
        self._said[key] = now
        while len(self._said) > REMEMBERED:
            del self._said[next(iter(self._said))]
        try:
            await self._client.create_event(regarding, reason=reason, message=message, now=now, warning=warning)
        except WardenError as error:
            logger.warning("an Event could not be recorded (%s: %s): %s", reason, message, error)
