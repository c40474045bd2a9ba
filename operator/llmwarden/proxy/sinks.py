"""Where finished calls go: a fixed list of sinks. Each gets every record once.

The list is made in `main.Proxy`. A new sink needs no change in `calls`: give a class the method `finished` and add it to that list. A program of
its own, such as a test, passes further sinks to `main.main`.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from llmwarden.proxy.record import Record

_LOG: Final = logging.getLogger("llmwarden.proxy")
_LOG_SECONDS: Final = 60.0  # between two log lines about the same sink

_Method = Callable[[Record], None]


class Sink(Protocol):
    """Takes records. It runs in the event loop before the answer's last bytes go out: it must neither wait nor compute for long."""

    def finished(self, record: Record) -> None:
        """Take a call that ended or was refused (`record.refused`); called once per call. The record is shared: read only."""


class Sinks:
    """Hands each record to every sink, in order. A sink that raises disturbs neither the call nor the other sinks."""

    def __init__(self, sinks: tuple[Sink, ...], count_failure: Callable[[str], None]) -> None:
        # The methods, not the sinks: they need not be looked up for each call.
        self._methods: tuple[_Method, ...] = tuple([sink.finished for sink in sinks])
        self._names: dict[_Method, str] = {sink.finished: type(sink).__name__ for sink in sinks}
        self._count_failure = count_failure  # gets the name of the sink's class
        self._logged: dict[str, float] = {}  # when a sink's failure was last logged, by its class

    def finished(self, record: Record) -> None:
        """Hand the record on."""
        for finished in self._methods:
            try:
                finished(record)
            except Exception as error:  # noqa: BLE001 - whatever a sink does wrong, the call goes on
                self._failed(self._names[finished], error)

    def _failed(self, name: str, error: Exception) -> None:
        self._count_failure(name)
        now = time.monotonic()
        if now - self._logged.get(name, -_LOG_SECONDS) >= _LOG_SECONDS:
            self._logged[name] = now
            _LOG.error(
                "the sink %s failed on a finished call; further failures are only counted for a minute",
                name,
                exc_info=error,
            )
