"""What the kubelet makes of a container's variables: an independent reading of Kubernetes' own expansion, for tests."""

from collections.abc import Mapping
from typing import Any

Sources = Mapping[str, Mapping[str, str]]  # Secrets and ConfigMaps alike: by name, their keys


def expand(text: str, values: Mapping[str, str]) -> str:
    """Character by character, as third_party/forked/golang/expansion does."""
    out, at = "", 0
    while at < len(text):
        if text[at] == "$" and at + 1 < len(text):
            if text[at + 1] == "$":
                out, at = out + "$", at + 2
                continue
            if text[at + 1] == "(":
                end = text.find(")", at)
                if end > 0:
                    name = text[at + 2 : end]
                    out, at = out + values.get(name, f"$({name})"), end + 1
                    continue
        out, at = out + text[at], at + 1
    return out


def variables(container: Mapping[str, Any], sources: Sources) -> dict[str, str]:
    """What the container's process finds in its environment."""
    values: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        named = source.get("configMapRef") or source.get("secretRef")
        for key, value in sources.get(named["name"], {}).items():
            values[source.get("prefix", "") + key] = value
    for entry in container.get("env") or []:
        if "valueFrom" in entry:
            reference = entry["valueFrom"].get("configMapKeyRef") or entry["valueFrom"]["secretKeyRef"]
            there = sources.get(reference["name"], {})
            if reference["key"] not in there:
                assert reference.get("optional"), f"the container cannot start: {entry}"
                continue
            values[entry["name"]] = there[reference["key"]]
        else:
            values[entry["name"]] = expand(entry.get("value") or "", values)
    return values
