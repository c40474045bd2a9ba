"""What a namespace allows its pods: LimitRanges and ResourceQuotas, as admission reads them. Pure.

`refusal` says why the API server would refuse a pod because of one resource of the proxy. It repeats what the plugins LimitRanger and
ResourceQuota of Kubernetes 1.35 do (plugin/pkg/admission/limitranger, pkg/quota/v1/evaluator/core/pods.go), floating point included.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, Literal

from llmwarden.injection import quantities

Amounts = Mapping[str, Fraction]
Side = Literal["requests", "limits"]
SIDES: Final[tuple[Side, Side]] = ("requests", "limits")
QOS: Final = ("cpu", "memory")  # the resources that decide a pod's class
_MAX_MILLI: Final = (1 << 63) // 1000  # resource.MaxMilliValue


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a LimitRange. `name`: the LimitRange's."""

    name: str
    of_pod: bool  # else of each container
    minimum: Amounts
    maximum: Amounts
    ratio: Amounts
    default: Amounts
    default_request: Amounts


@dataclass(frozen=True, slots=True)
class Quota:
    """One ResourceQuota. `hard` and `used` by its own names (`requests.cpu`); `scopes`: those of its selector."""

    name: str
    hard: Amounts
    used: Amounts
    scopes: tuple[tuple[str, str, tuple[str, ...]], ...] = ()  # name, operator, values


@dataclass(frozen=True, slots=True)
class Limits:
    """All of a namespace."""

    items: tuple[Item, ...] = ()
    quotas: tuple[Quota, ...] = ()


NONE: Final = Limits()


@dataclass(frozen=True, slots=True)
class Resources:
    """Requests and limits of a container, or the sum of a pod's. Limits without requests are requests as well, as the API server has it."""

    requests: Amounts = field(default_factory=dict)
    limits: Amounts = field(default_factory=dict)

    def of(self, side: Side) -> Amounts:
        """Give one of the two."""
        return self.requests if side == "requests" else self.limits


def limit_range(item: Mapping[str, Any]) -> tuple[Item, ...]:
    """Read a LimitRange (v1)."""
    name = item["metadata"]["name"]
    return tuple(
        Item(
            name,
            limit.get("type") == "Pod",
            minimum=_amounts(limit.get("min")),
            maximum=_amounts(limit.get("max")),
            ratio=_amounts(limit.get("maxLimitRequestRatio")),
            default=_amounts(limit.get("default")),
            default_request=_amounts(limit.get("defaultRequest")),
        )
        for limit in (item.get("spec") or {}).get("limits") or []
        if limit.get("type") in {"Pod", "Container"}
    )


def quota(item: Mapping[str, Any]) -> Quota:
    """Read a ResourceQuota (v1)."""
    spec, status = item.get("spec") or {}, item.get("status") or {}
    plain = ((scope, "Exists", ()) for scope in spec.get("scopes") or [])
    selected = (
        (wanted.get("scopeName", ""), wanted.get("operator", ""), tuple(wanted.get("values") or ()))
        for wanted in (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    )
    scopes = (*plain, *selected)
    return Quota(item["metadata"]["name"], _amounts(spec.get("hard")), _amounts(status.get("used")), scopes)


def _amounts(written: Mapping[str, Any] | None) -> dict[str, Fraction]:
    return {name: amount for name, text in (written or {}).items() if (amount := quantities.parse(text)) is not None}


def resources(container: Mapping[str, Any], limits: Limits = NONE) -> Resources:
    """Give a container's resources, with what LimitRanges add where it says nothing."""
    written = container.get("resources") or {}
    bounds, asked = _amounts(written.get("limits")), _amounts(written.get("requests"))
    asked = {**bounds, **asked}
    for item in limits.items:
        if not item.of_pod:
            bounds = {**item.default, **bounds}
            asked = {**item.default_request, **asked}
    return Resources({**bounds, **asked}, bounds)


def total(spec: Mapping[str, Any], own: str, limits: Limits) -> Resources:
    """Sum up a pod's resources without those of the container `own`: as Kubernetes does, native sidecars and init containers included."""
    sums: dict[Side, dict[str, Fraction]] = {"requests": {}, "limits": {}}
    for side in SIDES:
        running, first = sums[side], dict[str, Fraction]()
        sidecars: dict[str, Fraction] = {}
        for container in spec.get("containers") or []:
            _add(running, resources(container, limits).of(side))
        for container in spec.get("initContainers") or []:
            if container.get("name") == own:
                continue
            amounts = resources(container, limits).of(side)
            if container.get("restartPolicy") == "Always":
                _add(running, amounts)
                _add(sidecars, amounts)
                _most(first, sidecars)
            else:
                alone = dict(sidecars)
                _add(alone, amounts)
                _most(first, alone)
        _most(running, first)
    return Resources(sums["requests"], sums["limits"])


def _add(sums: dict[str, Fraction], amounts: Amounts) -> None:
    for name, amount in amounts.items():
        sums[name] = sums.get(name, Fraction(0)) + amount


def _most(sums: dict[str, Fraction], amounts: Amounts) -> None:
    for name, amount in amounts.items():
        sums[name] = max(sums.get(name, amount), amount)


@dataclass(frozen=True, slots=True)
class Around:
    """What a proxy's resources must fit: the namespace's limits, the pod's other containers, and what the pod says of itself.

    `beside`: the sum of the others. `of_pod`: the pod-level resources, None where it has none. `quotas`: those that count this pod.
    """

    items: tuple[Item, ...]
    quotas: tuple[Quota, ...]
    beside: Resources
    of_pod: Resources | None

    def refusal(self, name: str, request: Fraction | None, limit: Fraction | None) -> tuple[str, str] | None:
        """Say why a pod whose proxy has this request and limit of a resource is refused (which object, and why); None where it is not."""
        for item in self.items:
            pair = (request, limit)
            if item.of_pod:
                if _outside(item, name, self._sum("requests", name, None), self._sum("limits", name, None)):
                    continue  # the pod is refused anyway, not because of us
                pair = (self._sum("requests", name, request), self._sum("limits", name, limit))
            why = _outside(item, name, *pair)
            if why:
                return f"LimitRange {item.name}", why
        if self.of_pod is not None:
            most = self.of_pod.requests.get(name)
            if request is not None and most is not None and self.beside.requests.get(name, 0) + request > most:
                return "the pod's own resources", f"its containers may request no more than {_text(most)} {name}"
            most = self.of_pod.limits.get(name)
            if limit is not None and most is not None and limit > most:
                return "the pod's own resources", f"no container may have a higher limit than {_text(most)} {name}"
        for each in self.quotas:
            why = self._over(each, name, request, limit)
            if why:
                return f"ResourceQuota {each.name}", why
        return None

    def _sum(self, side: Side, name: str, own: Fraction | None) -> Fraction | None:
        if self.of_pod is not None and name in QOS and name in self.of_pod.of(side):
            return self.of_pod.of(side)[name]
        others = self.beside.of(side).get(name)
        return others if own is None else own + (others or 0)

    def _over(self, each: Quota, name: str, request: Fraction | None, limit: Fraction | None) -> str:
        for side in SIDES:
            own = request if side == "requests" else limit
            for key in quota_names(name, side):
                if key not in each.hard:
                    continue
                if own is None and name in QOS and self.of_pod is None:
                    return f"every container must have {side} of {name}"
                if key not in each.used or (self.of_pod is not None and name in QOS and name in self.of_pod.of(side)):
                    continue
                others, left = self.beside.of(side).get(name, Fraction(0)), each.hard[key] - each.used[key]
                # A pod that is too large by itself is not refused because of us.
                if own and others <= left < others + own:
                    return f"only {_text(left - others)} of {key} is left beside the pod's other containers"
        return ""


def quota_names(name: str, side: Side) -> tuple[str, ...]:
    """Give the names by which quotas count a resource."""
    if side == "limits":
        return (f"limits.{name}",) if name in {*QOS, "ephemeral-storage"} else ()
    return (f"requests.{name}",) if "/" in name else (name, f"requests.{name}")


def _outside(item: Item, name: str, request: Fraction | None, limit: Fraction | None) -> str:
    what = "pod" if item.of_pod else "container"
    least, most, ratio = item.minimum.get(name), item.maximum.get(name), item.ratio.get(name)
    if least is not None and (request is None or request < least or (limit is not None and limit < least)):
        return f"the least {name} of a {what} is {_text(least)}"
    if most is not None and (limit is None or limit > most or (request is not None and request > most)):
        return f"the most {name} of a {what} is {_text(most)}"
    if ratio is not None and (not request or not limit or _exceeds(limit, request, ratio)):
        return f"the limit of {name} of a {what} may be no more than {_text(ratio)} times its request"
    return ""


def _exceeds(limit: Fraction, request: Fraction, ratio: Fraction) -> bool:
    """Compare as LimitRanger does, in floating point."""
    scale = 1000 if max(limit, request) <= _MAX_MILLI else 1
    observed = float(_up(limit * scale)) / float(_up(request * scale))
    if ratio <= _MAX_MILLI:
        return observed * 1000 > float(_up(ratio * 1000))
    return observed > float(_up(ratio))


def _up(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def _text(value: Fraction) -> str:
    return quantities.write(value)


def counting(quotas: Iterable[Quota], spec: Mapping[str, Any], *, best_effort: bool) -> tuple[Quota, ...]:
    """Give the quotas that count a pod. One whose scope is not known here counts it: then the proxy is made to fit."""
    return tuple(each for each in quotas if all(_in_scope(scope, spec, best_effort) for scope in each.scopes))


def _in_scope(scope: tuple[str, str, tuple[str, ...]], spec: Mapping[str, Any], best_effort: bool) -> bool:  # noqa: FBT001 - a fact
    name, operator, values = scope
    terminating = spec.get("activeDeadlineSeconds") is not None
    facts = {
        "BestEffort": best_effort,
        "NotBestEffort": not best_effort,
        "Terminating": terminating,
        "NotTerminating": not terminating,
    }
    if name != "PriorityClass":
        return facts.get(name, True)
    priority = spec.get("priorityClassName") or ""
    by_operator = {
        "In": priority in values,
        "NotIn": priority not in values,
        "DoesNotExist": not priority,
    }
    return by_operator.get(operator, bool(priority))
