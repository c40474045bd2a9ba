"""Whether an object as it is holds all that we want of it. What others add is theirs; what we set is ours."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

Object = dict[str, Any]
_SERVERS: Final = frozenset({"managedFields", "creationTimestamp", "generation", "selfLink", "uid", "resourceVersion"})
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


def content(item: Mapping[str, Any]) -> Object:
    """Return an object without what only the server says of it."""
    kept = {key: value for key, value in item.items() if key != "status"}
    kept["metadata"] = {key: value for key, value in item["metadata"].items() if key not in _SERVERS}
    return kept


def digest(item: Mapping[str, Any]) -> bytes:
    """Return the hash of an object's content: 16 bytes."""
    return hashlib.blake2b(_ENCODER.encode(content(item)), digest_size=16).digest()


def project(live: Any, wanted: Any) -> Any:
    """Return of `live` only what `wanted` speaks of; equal to `wanted` where nothing is amiss.

    A list is one value of ours: an item more or less is a difference. Within its items, what the server has defaulted is not.
    """
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        return {key: project(live[key], value) for key, value in wanted.items() if key in live}
    if isinstance(wanted, list | tuple) and isinstance(live, list) and len(live) == len(wanted):
        return [project(there, here) for there, here in zip(live, wanted, strict=True)]
    return live


def holds(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether `live` holds all of `wanted`."""
    return bool(project(live, wanted) == wanted)
