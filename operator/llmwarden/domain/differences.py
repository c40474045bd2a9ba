"""In which fields two values differ, and who wrote an object last: for people who ask what was changed. Pure."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

_CHANGES: Final = 8  # that a text names


def difference(old: Any, new: Any) -> str:
    """Say in which fields two values (JSON) differ, as `limit.amount: "25" → "50"`; empty where they do not."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    changed = [
        f"{path}: {_shown(before.get(path))} → {_shown(after.get(path))}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]
    more = len(changed) - _CHANGES
    return "; ".join(changed[:_CHANGES]) + (f"; and {more} more" if more > 0 else "")


def manager(item: Mapping[str, Any]) -> str:
    """Return the field manager that wrote an object's spec last, and how; empty where the object does not say."""
    entries = [entry for entry in item["metadata"].get("managedFields") or [] if not entry.get("subresource")]
    last = max(entries, key=lambda entry: str(entry.get("time", "")), default=None)
    return f"{last.get('manager', '')} ({last.get('operation', '')})" if last else ""


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list | tuple):
        named = [inner.get("name") if isinstance(inner, Mapping) else None for inner in value]
        labels = named if all(named) and len(set(named)) == len(named) else range(len(value))
        return [leaf for label, inner in zip(labels, value, strict=True) for leaf in _leaves(inner, f"{path}[{label}]")]
    return [] if value is None else [(path, value)]


def _shown(value: Any) -> str:
    return "nothing" if value is None else msgspec.json.encode(value).decode()[:100]
