"""Counters, gauges and histograms of the proxy, and their exposition for Prometheus and OpenMetrics.

The reference client takes a lock for each observation and a microsecond for each; here everything runs in one thread, an observation is an
index and two additions, and what costs is left to the scrape. Formats: Prometheus text 0.0.4 and OpenMetrics 1.0.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_EXPONENT_FROM: Final = 6  # digits from which on Go writes a number with an exponent


class Value:
    """A counter's or a gauge's one number."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self.value += amount

    def set(self, value: float) -> None:
        """Set it (a gauge)."""
        self.value = value


class Distribution:
    """A histogram's buckets, each with the last trace that fell into it."""

    __slots__ = ("_bounds", "counts", "examples", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.examples: dict[int, tuple[str, float, float]] = {}  # bucket: trace id, value, POSIX time

    def observe(self, value: float, trace: str = "", at: float = 0.0) -> None:
        """Count a value; `trace` is the id of the trace that shows it, `at` when it ended (POSIX seconds)."""
        bucket = bisect_left(self._bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        if trace:
            self.examples[bucket] = (trace, value, at)

    def add(self, counts: Iterable[int], total: float) -> None:
        """Add values that were counted by bucket."""
        for bucket, count in enumerate(counts):
            if count:
                self.counts[bucket] += count
        self.sum += total


Child = TypeVar("Child", Value, Distribution)


class _Family(Generic[Child]):
    kind = ""

    def __init__(self, registry: "Registry", name: str, text: str, labels: Iterable[str] = ()) -> None:
        self.name = name
        self.text = text
        self._labels = tuple(labels)
        self._children: dict[tuple[str, ...], Child] = {}
        registry.families.append(self)
        if not self._labels:
            self.labels()

    def _make(self) -> Child:
        raise NotImplementedError

    def labels(self, *values: str) -> Child:
        """The child with these labels' values, made when it is first asked for."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self._labels):
                message = f"{self.name} has the labels {', '.join(self._labels)}"
                raise ValueError(message)
            child = self._children[values] = self._make()
        return child

    def children(self) -> Iterator[tuple[str, Child]]:
        """Each child with its labels as they are written, without braces."""
        for values, child in self._children.items():
            yield (
                ",".join(f'{name}="{_escape(value)}"' for name, value in zip(self._labels, values, strict=True)),
                child,
            )

    def lines(self, *, openmetrics: bool) -> Iterable[str]:
        """The samples."""
        del openmetrics
        raise NotImplementedError


class Counter(_Family[Value]):
    """Counters; the name ends in `_total`."""

    kind = "counter"

    def _make(self) -> Value:
        return Value()

    def lines(self, *, openmetrics: bool) -> Iterable[str]:
        """The samples."""
        del openmetrics
        return [_sample(self.name, labels, number(child.value)) for labels, child in self.children()]


class Gauge(Counter):
    """Gauges."""

    kind = "gauge"


class Histogram(_Family[Distribution]):
    """Histograms over `bounds`, rising; the last bucket's `+Inf` is added."""

    kind = "histogram"

    def __init__(
        self, registry: "Registry", name: str, text: str, labels: Iterable[str], bounds: Iterable[float]
    ) -> None:
        self._bounds = tuple(bounds)
        self._edges = [number(bound) for bound in (*self._bounds, math.inf)]
        super().__init__(registry, name, text, labels)

    def _make(self) -> Distribution:
        return Distribution(self._bounds)

    def lines(self, *, openmetrics: bool) -> Iterator[str]:
        """The samples, with examples in OpenMetrics."""
        for labels, child in self.children():
            begin = f'{self.name}_bucket{{{labels}{"," if labels else ""}le="'
            below = 0
            for bucket, (edge, count) in enumerate(zip(self._edges, child.counts, strict=True)):
                below += count
                line = f'{begin}{edge}"}} {below}.0'
                if openmetrics and (example := child.examples.get(bucket)) is not None:
                    line += f' # {{trace_id="{example[0]}"}} {number(example[1])} {example[2]:.3f}'
                yield line
            yield _sample(f"{self.name}_count", labels, f"{below}.0")
            yield _sample(f"{self.name}_sum", labels, number(child.sum))


class Renamed:
    """A family under another name as well; with `only`, one label's value, as a family without that label (its last)."""

    def __init__(
        self, registry: "Registry", name: str, family: "Counter | Histogram", only: tuple[str, str] | None = None
    ) -> None:
        self.name = name
        self.kind = family.kind
        self.text = family.text
        self._family = family
        self._only = f',{only[0]}="{only[1]}"' if only is not None else ""
        registry.families.append(self)

    def lines(self, *, openmetrics: bool) -> Iterator[str]:
        """The samples."""
        known = len(self._family.name)
        for line in self._family.lines(openmetrics=openmetrics):
            if self._only in line:
                yield self.name + line[known:].replace(self._only, "", 1)


class Registry:
    """All families of one process."""

    def __init__(self) -> None:
        self.families: list[_Family[Any] | Renamed] = []

    def expose(self, *, openmetrics: bool) -> bytes:
        """The text of a scrape."""
        out: list[str] = []
        for family in self.families:
            name = family.name
            if openmetrics and family.kind == "counter":
                name = name.removesuffix("_total")
            out.append(f"# HELP {name} {family.text}")
            out.append(f"# TYPE {name} {family.kind}")
            out += family.lines(openmetrics=openmetrics)
        out.append("# EOF\n" if openmetrics else "")
        return "\n".join(out).encode()


def number(value: float) -> str:
    """A number as Go writes it, so that a bound is spelled the same here and in every other exposition."""
    if value == math.inf:
        return "+Inf"
    text = repr(float(value))
    dot = text.find(".")
    if value > 0 and dot > _EXPONENT_FROM:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{dot - 1:02d}"
    return text


def _sample(name: str, labels: str, value: str) -> str:
    return f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"


def _escape(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return value
