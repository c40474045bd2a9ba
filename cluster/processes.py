"""Starts the cluster's daemons and finds them again, by a mark that nothing else carries.

Each daemon gets the path of its cluster's state folder in its environment. A process is ours exactly if it carries
that mark: no pid file can be missing or stale, after `kill -9`, a reboot or a Ctrl-C between fork and write, and no
process of anybody else is ever ended because its number or name looked familiar.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.paths import State

_MARK = "LLMWARDEN_CLUSTER_STATE"
_COMPONENT = "LLMWARDEN_CLUSTER_COMPONENT"
_LOOK_SECONDS = 0.005


@dataclass(frozen=True)
class Daemon:
    """A running process of a cluster. Children of a component, such as containerd's shims, carry its name too."""

    pid: int
    component: str
    leader: bool  # of the session that `start` gave it: so it is the component itself, and no child


def start(
    state: State, component: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a daemon in a session of its own (a terminal's Ctrl-C is not for it), its output in logs/COMPONENT.log."""
    state.logs.mkdir(parents=True, exist_ok=True)
    marked = {**os.environ, **(environment or {}), _MARK: str(state.root), _COMPONENT: component}
    with (state.logs / f"{component}.log").open("ab") as log:
        daemon = subprocess.Popen(
            [str(word) for word in command],
            env=marked,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )
    try:
        # Popen returns when the new program takes the old one's place, a moment before its environment can be read: who looked in
        # between would take it for dead.
        while daemon.poll() is None and _component(daemon.pid, _marked(state)) is None:
            time.sleep(_LOOK_SECONDS)
    except BaseException:
        daemon.kill()  # nobody would find it by its mark
        daemon.wait()
        raise
    return daemon


def _marked(state: State) -> bytes:
    return f"{_MARK}={state.root}".encode()


def _component(pid: int, mark: bytes) -> str | None:
    """Return the component's name if the process is alive and carries `mark`."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return None
    if mark not in variables:
        return None
    prefix = _COMPONENT.encode() + b"="
    return next((each[len(prefix) :].decode() for each in variables if each.startswith(prefix)), None)


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def find(state: State) -> list[Daemon]:
    """Return the cluster's living processes. A zombie has no environment any more, so it does not count."""
    mark = _marked(state)
    numbers = (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())  # noqa: PTH208 - only names
    components = ((number, _component(number, mark)) for number in numbers)
    return [Daemon(number, component, _leads(number)) for number, component in components if component]


def living(state: State) -> dict[str, int]:
    """Return each running component's process id. A shim that outlived containerd does not stand for it."""
    return {daemon.component: daemon.pid for daemon in find(state) if daemon.leader}


def kill(state: State, components: Iterable[str] | None = None) -> None:
    """End the cluster's processes (or those of some components) at once, and wait until they are gone.

    SIGKILL, because nothing that they could still write outlives them. A process is signalled through a file
    descriptor that was opened before its mark was read: its number cannot have passed to another one in between.
    """
    wanted = None if components is None else set(components)
    mark = _marked(state)
    # Again until none is found: a process may have forked while the list was made.
    while victims := [each for each in find(state) if wanted is None or each.component in wanted]:
        for victim in victims:
            kill_if(victim.pid, lambda pid: _component(pid, mark) is not None)


def kill_if(pid: int, ours: Callable[[int], bool]) -> None:
    """Kill `pid` if `ours(pid)` holds, and wait up to 10 s for its end."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not ours(pid):
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], 10)
    finally:
        os.close(handle)
    # A child of this very program stays a zombie until it is waited for.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def tail(state: State, component: str, lines: int = 12) -> str:
    """Return the end of a component's log, for an error message; of a crash, what was said before the stack."""
    try:
        text = (state.logs / f"{component}.log").read_text(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    said = re.split(r"^goroutine \d+ .*:$", text, maxsplit=1, flags=re.MULTILINE)[0]
    return "\n".join(said.splitlines()[-lines:])
