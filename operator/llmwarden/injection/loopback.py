"""Keeps the calls to our loopback port out of HTTP proxies: each container's NO_PROXY names the loopback, and all that it named before.

Clients read `NO_PROXY`, `no_proxy`, either before the other, or any spelling of it (Python). So each spelling that is there is added to.
What the container takes from a Secret or a ConfigMap cannot be read, but Kubernetes can expand it: it is kept under another name, and the
variable refers to that name, in the same place of the list, so that what refers to the variable itself is still expanded.
"""

from typing import Final

from llmwarden import names
from llmwarden.injection.variables import Container, entry_of, hidden, put

LOOPBACK: Final = "127.0.0.1"
NOT_PROXIED: Final = (LOOPBACK, "localhost")
_SPELLINGS: Final = ("NO_PROXY", "no_proxy")


def bypass_proxies(container: Container) -> None:
    """Add the loopback to every list of hosts that are reached without a proxy; make the lists where there are none.

    One spelling is not made beside the other where nothing hides behind envFrom: clients that read both would prefer it.
    """
    env = container.get("env") or []
    present = list(dict.fromkeys(entry["name"] for entry in env if str(entry.get("name")).upper() == _SPELLINGS[0]))
    for variable in present:
        _extend(container, variable)
    exact = [variable for variable in _SPELLINGS if variable in present]
    brought = bool(next(hidden(container, _SPELLINGS[0]), None) or next(hidden(container, _SPELLINGS[1]), None))
    if exact and not brought:
        return
    for variable, other in (_SPELLINGS, _SPELLINGS[::-1]):
        if variable in present:
            continue
        if not brought and not present:
            put(container, variable, ",".join(NOT_PROXIED))
            continue
        # The later counts: its own spelling in envFrom before the other one, and that before what the container says itself.
        kept = f"{names.KEPT_PREFIX}{variable}"
        entries = container["env"] = container.get("env") or []
        entries.append({"name": kept, "value": f"$({present[-1]})" if present else LOOPBACK})
        if other not in present:
            entries += [{"name": kept, "valueFrom": source} for source in hidden(container, other)]
        entries += [{"name": kept, "valueFrom": source} for source in hidden(container, variable)]
        entries.append({"name": variable, "value": _with_loopback(f"$({kept})")})


def _extend(container: Container, variable: str) -> None:
    entry = entry_of(container, variable) or {}
    if "valueFrom" in entry:
        kept = f"{names.KEPT_PREFIX}{variable}"
        env = container["env"]
        place = len(env) - 1 - env[::-1].index(entry)
        env[place : place + 1] = [
            {**entry, "name": kept},
            {"name": variable, "value": _with_loopback(f"$({kept})")},
        ]
        return
    value = entry.get("value") or ""
    hosts = {item.strip() for item in value.split(",")}
    if "*" in hosts or hosts.issuperset(NOT_PROXIED):
        return  # a client may take `*` for "all" only where it stands alone
    put(container, variable, _with_loopback(value, hosts))


def _with_loopback(value: str, hosts: set[str] | frozenset[str] = frozenset()) -> str:
    items = [item for item in value.split(",") if item.strip()]
    return ",".join([*items, *(item for item in NOT_PROXIED if item not in hosts)])
