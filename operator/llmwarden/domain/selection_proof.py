"""Whether a Prometheus, an Alertmanager or a Grafana takes one of our objects, and if not, what is missing and where it goes.

The rules are those of their operators (selectors come as JSON, as they stand in the other operator's object):
- a selector that is not there selects nothing, an empty one everything;
- a namespace selector that is not there selects the chooser's own namespace, an empty one all of them;
- one that does not parse selects nothing: their operators stop at it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llmwarden import names

Selector = Mapping[str, Any]
# Labels that our objects always carry: no setting gives them another value.
FIXED: Final = frozenset({names.LABEL_MANAGED_BY, names.LABEL_NAME, names.LABEL_COMPONENT, names.LABEL_SERVICE})


@dataclass(frozen=True, slots=True)
class Chooser:
    """Who selects: an object of another operator, by two of its fields. None is a field that is not set."""

    kind: str
    namespace: str
    name: str
    selector: Selector | None
    namespace_selector: Selector | None
    field: str  # names of the two fields, for messages
    namespace_field: str

    def __str__(self) -> str:
        """Name it as a sentence does."""
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is to be selected: one of our objects. `value` is the chart's value that gives it labels."""

    kind: str
    namespace: str
    name: str
    value: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Name it as a sentence does."""
        return f"{self.kind} {self.namespace}/{self.name}"


def lacking(selector: Selector, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what an object's labels lack for a selector: of each requirement that fails the key, and what it wants in words.

    Empty where all holds. The key is "" for a requirement that can never hold.
    """
    failed = [
        (key, f"the label {key}={value}")
        for key, value in (selector.get("matchLabels") or {}).items()
        if labels.get(key) != value
    ]
    for requirement in selector.get("matchExpressions") or ():
        key, operator = requirement.get("key", ""), requirement.get("operator")
        values = tuple(requirement.get("values") or ())
        of = ", ".join(values)
        if operator == "In" and values:
            if labels.get(key) not in values:
                failed.append(
                    (key, f"the label {key}={of}" if len(values) == 1 else f"the label {key} with one of {of}")
                )
        elif operator == "NotIn" and values:
            if labels.get(key) in values:
                failed.append((key, f"the label {key} absent, or with another value than {of}"))
        elif operator == "Exists" and not values:
            if key not in labels:
                failed.append((key, f"the label {key}, with any value"))
        elif operator == "DoesNotExist" and not values:
            if key in labels:
                failed.append((key, f"the label {key} absent"))
        else:
            failed.append(
                (
                    "",
                    f"a valid selector (its requirement on {key or 'no key'} has operator {operator} and {len(values)} values)",
                )
            )
    return tuple(failed)


def matches(selector: Selector | None, labels: Mapping[str, str]) -> bool:
    """Whether a selector takes an object with these labels; None takes nothing."""
    return selector is not None and not lacking(selector, labels)


def gaps(chooser: Chooser, candidate: Candidate) -> tuple[str, ...]:
    """Return sentences on what keeps a chooser from taking a candidate, each with its remedy; empty where it takes it."""
    sentences: list[str] = []
    if chooser.selector is None:
        sentences.append(
            f"its {chooser.field} is not set, which selects nothing: set it there ({{}} selects every {candidate.kind})"
        )
    else:
        sentences += [
            _label(chooser, candidate, key, want) for key, want in lacking(chooser.selector, candidate.labels)
        ]
    if chooser.namespace_selector is None:
        if chooser.namespace != candidate.namespace:
            sentences.append(
                f"its {chooser.namespace_field} is not set, so it looks in its own namespace {chooser.namespace} only, and this is in "
                f"{candidate.namespace}: set {chooser.namespace_field} there ({{}} is all namespaces)"
            )
    else:
        sentences += [
            _namespace(chooser, candidate, key, want)
            for key, want in lacking(chooser.namespace_selector, candidate.namespace_labels)
        ]
    return tuple(sentences)


def _label(chooser: Chooser, candidate: Candidate, key: str, want: str) -> str:
    if not key or key in FIXED:
        return f"its {chooser.field} wants {want}, which no setting of ours can give: change {chooser.field} there"
    return f"its {chooser.field} wants {want}: put it into the chart's {candidate.value}"


def _namespace(chooser: Chooser, candidate: Candidate, key: str, want: str) -> str:
    if not key:
        return f"its {chooser.namespace_field} wants {want}: change it there"
    return f"its {chooser.namespace_field} wants {want} on the namespace {candidate.namespace}: label that namespace"


def choosing(choosers: Iterable[Chooser], candidate: Candidate) -> tuple[Chooser, ...]:
    """Return those who take a candidate."""
    return tuple(chooser for chooser in choosers if not gaps(chooser, candidate))


def refusal(choosers: tuple[Chooser, ...], candidate: Candidate) -> str:
    """Say why none of these takes a candidate: of the one that lacks least, all that is missing. There must be one."""
    nearest = min(choosers, key=lambda chooser: (len(gaps(chooser, candidate)), chooser.namespace, chooser.name))
    missing = "; ".join(gaps(nearest, candidate))
    if len(choosers) == 1:
        return f"{nearest} does not select {candidate}: {missing}."
    return f"None of {len(choosers)} {nearest.kind} objects selects {candidate}; nearest is {nearest}: {missing}."
