"""A container's variables, and how Kubernetes expands references between them (`$(NAME)`).

The kubelet takes the entries in their order. A reference is replaced by what the variable has at that place: what envFrom or an earlier entry
gave it. One that names nothing yet stays as text, and so does what follows `$$`. Of several entries of a name the last one counts.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

Container = dict[str, Any]

_TOKEN: Final = re.compile(r"\$(?:\$|\(([^)]*)\))")
_LONGEST: Final = 8192  # characters of a value that is put together: references to references grow without bound
_SOURCES: Final = (("secretRef", "secretKeyRef"), ("configMapRef", "configMapKeyRef"))


def entry_of(container: Mapping[str, Any], variable: str) -> dict[str, Any] | None:
    """Give a container's last entry of a variable: the last is the one that counts."""
    return next((entry for entry in reversed(container.get("env") or []) if entry.get("name") == variable), None)


def readable(container: Mapping[str, Any], variable: str) -> str | None:
    """Give the value that a variable has when all of it is written in the container's own entries; None where it is not."""
    env = container.get("env") or []
    last = max((place for place, entry in enumerate(env) if entry.get("name") == variable), default=-1)
    if last < 0 or not refers(env[last].get("value") or ""):
        return _written(env[last], {}) if last >= 0 else None
    known: dict[str, str | None] = {}
    for entry in env[: last + 1]:
        known[str(entry.get("name"))] = _written(entry, known)
    return known[variable]


def _written(entry: Mapping[str, Any], known: Mapping[str, str | None]) -> str | None:
    value = entry.get("value") or ""
    if "valueFrom" in entry:
        return None
    parts: list[str] = []
    size, end = 0, 0
    for match in _TOKEN.finditer(value):
        text = known.get(match[1]) if match[1] else "$" if match[0] == "$$" else match[0]
        if text is None:
            return None
        parts += [value[end : match.start()], text]
        end = match.end()
        size += len(text)
        if size > _LONGEST:
            return None
    return "".join((*parts, value[end:]))


def put(container: Container, variable: str, value: str) -> None:
    """Set a variable where its last entry is, or at the end.

    Earlier entries of the name stay: what stands between them may refer to them.
    """
    env = container["env"] = container.get("env") or []
    places = [index for index, entry in enumerate(env) if entry.get("name") == variable]
    if places:
        env[places[-1]] = {"name": variable, "value": value}
    else:
        env.append({"name": variable, "value": value})


def references(value: str) -> tuple[str, ...]:
    """Give the names that a value refers to, in their order."""
    return tuple(match[1] for match in _TOKEN.finditer(value) if match[1])


def refers(value: str) -> bool:
    """Whether a value depends on other variables."""
    return bool(references(value))


def rename(value: str, names: Mapping[str, str]) -> str:
    """Let references to a name refer to another one."""

    def new(match: re.Match[str]) -> str:
        return f"$({names[match[1]]})" if match[1] in names else match[0]

    return _TOKEN.sub(new, value)


def hidden(container: Mapping[str, Any], variable: str) -> Iterator[dict[str, Any]]:
    """Give, for each source of envFrom, a reference to what it may bring for a variable.

    Each is optional: a key that is not there changes nothing. Of several the later wins, as it does in envFrom itself.
    """
    for source in container.get("envFrom") or []:
        prefix = source.get("prefix") or ""
        key = variable.removeprefix(prefix)
        for kind, reference in _SOURCES:
            if kind in source and variable.startswith(prefix) and key:
                yield {reference: {"name": (source[kind] or {}).get("name", ""), "key": key, "optional": True}}
