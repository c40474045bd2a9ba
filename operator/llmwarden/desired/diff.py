"""Whether an object as it is holds all that we want of it. What others add is theirs; what we set is ours."""

import hashlib
from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]
_SERVERS = ("managedFields", "creationTimestamp", "generation", "selfLink")


def compact(item: Mapping[str, Any]) -> Object:
    """Return an object as we keep it: without what only the server says, and a ConfigMap's texts as their hashes."""
    kept = {key: value for key, value in item.items() if key != "status"}
    kept["metadata"] = {key: value for key, value in item["metadata"].items() if key not in _SERVERS}
    if item.get("kind") == "ConfigMap" and isinstance(item.get("data"), Mapping):
        kept["data"] = {
            key: f"sha256:{hashlib.sha256(str(value).encode()).hexdigest()}" for key, value in item["data"].items()
        }
    return kept


def project(live: Any, wanted: Any) -> Any:
    """Return of `live` only what `wanted` speaks of; equal to `wanted` where nothing is amiss.

    A list is one value of ours: an item more or less is a difference. Within its items, what the server has defaulted is not.
    """
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        return {key: project(live[key], value) for key, value in wanted.items() if key in live}
    if isinstance(wanted, list | tuple) and isinstance(live, list) and len(live) == len(wanted):
        return [project(there, here) for there, here in zip(live, wanted, strict=True)]
    return live


def holds(live: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Whether `live` (compact) holds all of `wanted` (compact)."""
    return live is not None and project(live, wanted) == wanted
