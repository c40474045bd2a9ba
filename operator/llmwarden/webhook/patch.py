"""JSON Patch (RFC 6902) from one JSON value to another: small where lists only grew at an end, whole-value otherwise."""

from typing import Any

Operation = dict[str, Any]


def diff(old: Any, new: Any, path: str = "") -> list[Operation]:
    """Give the operations that turn `old` into `new`, to be applied in their order."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return _diff_object(old, new, path)
    if isinstance(old, list) and isinstance(new, list) and old:
        return _diff_list(old, new, path)
    return [{"op": "replace", "path": path, "value": new}]


def _diff_object(old: dict[str, Any], new: dict[str, Any], path: str) -> list[Operation]:
    operations: list[Operation] = []
    for key, value in old.items():
        place = f"{path}/{_escape(key)}"
        operations += diff(value, new[key], place) if key in new else [{"op": "remove", "path": place}]
    operations += [
        {"op": "add", "path": f"{path}/{_escape(key)}", "value": value} for key, value in new.items() if key not in old
    ]
    return operations


def _diff_list(old: list[Any], new: list[Any], path: str) -> list[Operation]:
    grown = len(new) - len(old)
    if grown < 0:
        return [{"op": "replace", "path": path, "value": new}]
    old_names, new_names = [_identity(item) for item in old], [_identity(item) for item in new]
    if new_names[: len(old)] == old_names:
        operations = [
            operation
            for index, (before, after) in enumerate(zip(old, new, strict=False))
            for operation in diff(before, after, f"{path}/{index}")
        ]
        return operations + [{"op": "add", "path": f"{path}/-", "value": item} for item in new[len(old) :]]
    if new_names[grown:] == old_names:
        operations = [{"op": "add", "path": f"{path}/{index}", "value": new[index]} for index in range(grown)]
        for index, before in enumerate(old, start=grown):
            operations += diff(before, new[index], f"{path}/{index}")
        return operations
    return [{"op": "replace", "path": path, "value": new}]


def _identity(item: Any) -> Any:
    """Give what tells two items of a Kubernetes list apart: their name, else all of them."""
    return item.get("name", item) if isinstance(item, dict) else item


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
