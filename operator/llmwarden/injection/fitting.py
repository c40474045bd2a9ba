"""Which requests and limits the proxy's container gets, so that the pod is admitted and keeps its class of service. Pure.

The proxy asks for what the settings say where the namespace allows that. Where it does not, each resource is chosen by itself: among the values
at which a rule of the namespace begins or ends to hold, the admissible pair that is nearest to the settings. Where there is none, the pod gets
no proxy, and the finding says because of which object.

- A Guaranteed pod stays Guaranteed: the proxy's limits are its requests. A BestEffort pod stays BestEffort: the proxy asks for nothing.
- A limit below what the proxy needs to run would keep the application from starting: it is never chosen.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, Final

from llmwarden import names
from llmwarden.injection import quantities
from llmwarden.injection.limits import (
    NONE,
    QOS,
    SIDES,
    Around,
    Limits,
    Resources,
    counting,
    quota_names,
    resources,
    total,
)
from llmwarden.settings import Settings

JOURNAL_SIZE: Final = "64Mi"
_STORAGE: Final = "ephemeral-storage"
_STORAGE_LIMIT: Final = "256Mi"  # the journal, and the logs that the kubelet keeps: 50 MiB by default
_LEAST_CPU: Final = Fraction(50, 1000)  # cores; with less the proxy starts too slowly
_MILLI: Final = Fraction(1, 1000)

Pair = tuple[Fraction | None, Fraction | None]  # request and limit; None: not said


@dataclass(frozen=True, slots=True)
class Fit:
    """`resources` for the container. `refused`: (object, why) where nothing fits; `notes`: the same where the proxy got less than it should."""

    resources: dict[str, dict[str, str]]
    refused: tuple[str, str] | None = None
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the proxy should have of one resource. `least`: the lowest limit with which it runs; `enough`: the lowest with which it runs well."""

    request: Fraction | None = None
    limit: Fraction | None = None
    least: Fraction = Fraction(0)
    enough: Fraction = Fraction(1)
    equal: bool = False  # the limit must be the request
    nothing: bool = False  # neither may be more than nothing


def fit(pod: Mapping[str, Any], settings: Settings, limits: Limits = NONE) -> Fit:
    """Choose the resources of the proxy for a pod (which may have a proxy already)."""
    spec = pod.get("spec") or {}
    every = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    theirs = [resources(item, limits) for item in every if item.get("name") != names.PROXY_CONTAINER]
    of_pod = resources(spec) if spec.get("resources") else None
    best_effort = of_pod is None and not any(_asks(item, name) for item in theirs for name in QOS)
    around = Around(
        limits.items,
        counting(limits.quotas, spec, best_effort=best_effort),
        total(spec, names.PROXY_CONTAINER, limits),
        of_pod,
    )
    wishes = _wishes(theirs, settings, around, best_effort=best_effort)
    chosen: dict[str, dict[str, str]] = {side: {} for side in SIDES}
    notes = []
    for name, wish in wishes.items():
        pair = _choose(name, wish, around)
        why = around.refusal(name, wish.request, wish.limit) or ("", "")
        if pair is None:
            return Fit({}, refused=why)
        for side, amount in zip(SIDES, pair, strict=True):
            if amount is not None:
                chosen[side][name] = quantities.write(amount)
        if wish.limit is not None and (pair[1] is None or pair[1] < min(wish.enough, wish.limit)):
            has = "no limit" if pair[1] is None else f"a limit of only {quantities.write(pair[1])}"
            notes.append((why[0], f"{why[1]}, so the proxy has {has} of {name}"))
    return Fit({side: amounts for side, amounts in chosen.items() if amounts}, notes=tuple(notes))


def _asks(item: Resources, name: str) -> bool:
    return bool(item.requests.get(name) or item.limits.get(name))


def _is_guaranteed(theirs: Iterable[Resources]) -> bool:
    every = list(theirs)
    return all(item.limits.get(name) for item in every for name in QOS) and all(
        sum(item.requests.get(name, 0) for item in every) == sum(item.limits[name] for item in every) for name in QOS
    )


def _wishes(theirs: list[Resources], settings: Settings, around: Around, *, best_effort: bool) -> dict[str, _Wish]:
    cpu, memory, guaranteed, most_cpu, most_memory = (
        quantities.parse(text) or Fraction(0)
        for text in (
            settings.proxy_cpu_request,
            settings.proxy_memory_request,
            settings.proxy_cpu_guaranteed,
            settings.proxy_cpu_limit,
            settings.proxy_memory_limit,
        )
    )
    enough_cpu, enough_memory = max(guaranteed, cpu), max(2 * memory, Fraction(1))
    # Where none names it nothing is asked of us; any other resource is given nothing of, whatever a LimitRange's default says.
    wishes = {name: _Wish(nothing=True) for item in around.items for name in _named(item)}
    if any(_STORAGE in item.requests for item in theirs):
        # A limit of local storage holds for the pod as a whole: our journal and logs must not use up the application's.
        journal = quantities.parse(JOURNAL_SIZE) or Fraction(0)
        wishes[_STORAGE] = _Wish(journal, quantities.parse(_STORAGE_LIMIT), least=journal, enough=2 * journal)
    elif _STORAGE in wishes:
        journal = quantities.parse(JOURNAL_SIZE) or Fraction(0)
        wishes[_STORAGE] = _Wish(least=journal, enough=2 * journal)
    least = {"cpu": max(_LEAST_CPU, cpu), "memory": memory}
    enough = {"cpu": enough_cpu, "memory": enough_memory}
    if around.of_pod is not None:
        # Those of the pod as a whole bound ours as well; ours beside them could be more than they allow.
        wishes |= {name: _Wish(least=least[name], enough=enough[name]) for name in QOS}
    elif best_effort:
        wishes |= {name: _Wish(nothing=True) for name in QOS}
    elif _is_guaranteed(theirs):
        wishes["cpu"] = _Wish(enough_cpu, enough_cpu, least["cpu"], enough_cpu, equal=True)
        wishes["memory"] = _Wish(most_memory, most_memory, memory, enough_memory, equal=True)
    else:
        limited = all("cpu" in item.limits for item in theirs)
        wishes["cpu"] = _Wish(cpu, most_cpu if limited else None, least["cpu"], enough_cpu)
        wishes["memory"] = _Wish(memory, most_memory, memory, enough_memory)
    return wishes


def _named(item: Any) -> set[str]:
    return {*item.minimum, *item.maximum, *item.ratio, *item.default, *item.default_request}


def _choose(name: str, wish: _Wish, around: Around) -> Pair | None:
    """Give the admissible pair that is nearest to what is wished; None where there is none."""
    items = [item for item in around.items if not item.of_pod]
    # What is not said would be filled in after us.
    said = any(name in item.default for item in items)
    asked = said or any(name in item.default_request for item in items)
    wanted = (wish.request, wish.limit)

    def admitted(pair: Pair) -> bool:
        request, limit = pair
        if (limit is None and said) or (request is None and (asked or limit is not None)):
            return False
        if wish.nothing:
            if request or limit:
                return False
        elif limit is not None and (limit < wish.least or request is None or request > limit):
            return False
        if wish.equal and (not limit or request != limit):
            return False
        return around.refusal(name, request, limit) is None

    if admitted(wanted):
        return wanted
    if wish.nothing:
        nothing = Fraction(0)
        return next((pair for pair in ((None, None), (nothing, None), (nothing, nothing)) if admitted(pair)), None)
    requests, limits = _candidates(name, wish, around)
    pairs = [pair for pair in product(requests, limits) if admitted(pair)]
    return min(pairs, key=lambda pair: (_cost(wish, *pair), pair[0] or 0, pair[1] or 0), default=None)


def _candidates(name: str, wish: _Wish, around: Around) -> tuple[set[Fraction | None], set[Fraction | None]]:
    """Give the values at which a rule begins or ends to hold, each for requests and limits."""
    unit = _MILLI if name == "cpu" else Fraction(1)
    values = {Fraction(0), wish.least, wish.enough, wish.request, wish.limit}
    besides = {side: around.beside.of(side).get(name, Fraction(0)) for side in SIDES}
    for item in around.items:
        for amounts in (item.minimum, item.maximum, item.default, item.default_request):
            if name in amounts:
                values |= {amounts[name], *(amounts[name] - beside for beside in besides.values())}
    for each in around.quotas:
        for side in SIDES:
            values |= {
                each.hard[key] - each.used[key] - besides[side]
                for key in quota_names(name, side)
                if key in each.hard and key in each.used
            }
    if around.of_pod is not None:
        values |= {around.of_pod.of(side).get(name, Fraction(0)) - besides[side] for side in SIDES}
        values |= {around.of_pod.of(side).get(name) for side in SIDES}
    whole = {_up(value, unit) for value in values if value is not None and value >= 0}
    down = {value // unit * unit for value in values if value is not None and value >= 0}
    requests, limits = whole | down, whole | down
    for item in around.items:
        ratio = item.ratio.get(name)
        if ratio:
            asked, bound = (besides["requests"], besides["limits"]) if item.of_pod else (Fraction(0), Fraction(0))
            requests |= {_up((limit + bound) / ratio - asked, unit) for limit in limits}
            limits |= {((request + asked) * ratio - bound) // unit * unit for request in requests}
    return {None, *(value for value in requests if value >= 0)}, {None, *(value for value in limits if value > 0)}


def _up(value: Fraction, unit: Fraction) -> Fraction:
    return -(-value // unit) * unit


def _cost(wish: _Wish, request: Fraction | None, limit: Fraction | None) -> Fraction:
    """Say how far a pair is from what is wished: a request too high costs the cluster, a limit too low costs latency."""
    cost = Fraction(0)
    if wish.request is None:
        cost += 0 if request is None else 1 + request / wish.enough
    elif request is None:
        cost += 4
    elif request < wish.request:
        cost += 3 * (1 - request / wish.request)
    else:
        cost += (request - wish.request) / wish.enough
    if limit is None:
        return cost if wish.limit is None else cost + 5
    if limit < wish.enough:
        cost += 10 * (1 - limit / wish.enough)
    if wish.limit is None:
        return cost + Fraction(1, 2) + limit / wish.enough / 100
    return cost + abs(limit - wish.limit) / wish.limit * (Fraction(1, 10) if limit < wish.limit else Fraction(1, 2))
