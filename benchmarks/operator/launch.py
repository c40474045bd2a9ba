"""`python -m llmwarden operator` in the benchmark: the same process, which finds the ledger on loopback and says what its heap holds.

The ledger's address is a Service's name, which nothing resolves outside a cluster: here it leads to `BENCH_LEDGER_PORT` of this machine (the
certificate is checked against the real name all the same). SIGUSR1 writes glibc's account of its heap to `BENCH_HEAP`. With `BENCH_PROFILE=stacks` a
thread looks at all stacks every few milliseconds, and SIGUSR2 writes what it saw since the last time to `BENCH_PROFILE_FILE` (one line a stack, as flame
graphs take it); with `BENCH_PROFILE=allocations` SIGUSR2 writes which stacks hold how much memory. Both cost much: only to find out where it goes.
"""

import collections
import ctypes
import os
import signal
import socket
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from types import FrameType
from typing import Any, Final

from llmwarden import names
from llmwarden.control.handlers.main import main
from llmwarden.settings import Settings

_HOST: Final = f"{names.LEDGER}.{names.DEFAULT_NAMESPACE}.svc"
_LOOK_SECONDS: Final = 0.005
_DEEPEST: Final = 60
_SHOWN: Final = 60
_FRAMES: Final = 8
_IDLE: Final = frozenset({"select", "wait", "_worker", "_recv", "accept", "poll"})


def _resolve(port: int) -> None:
    """Let the ledger's name lead to loopback, within this process."""
    real = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host in {_HOST, _HOST.encode()} else host, *arguments, **more)

    socket.getaddrinfo = resolve
    setattr(Settings, "ledger_url", property(lambda _: f"https://{_HOST}:{port}"))  # noqa: B010 - it has no setter


def _heap(path: str) -> None:
    """Write glibc's account on SIGUSR1 (malloc_info(3))."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fopen.restype = ctypes.c_void_p
    libc.malloc_info.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.fclose.argtypes = (ctypes.c_void_p,)

    def write(_number: int, _frame: FrameType | None) -> None:
        scratch = f"{path}.part"
        file = libc.fopen(scratch.encode(), b"w")
        libc.malloc_info(0, file)
        libc.fclose(file)
        Path(scratch).rename(path)

    signal.signal(signal.SIGUSR1, write)


def _profile(path: str) -> None:
    """Look at stacks from a thread, and write them on SIGUSR2."""
    seen: collections.Counter[str] = collections.Counter()

    def look() -> None:
        own = threading.get_ident()
        while True:
            time.sleep(_LOOK_SECONDS)
            for thread, leaf in sys._current_frames().items():  # noqa: SLF001 - the one way to see other threads
                if thread == own or leaf.f_code.co_name in _IDLE:
                    continue
                stack: list[str] = []
                frame: FrameType | None = leaf
                while frame is not None and len(stack) < _DEEPEST:
                    stack.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
                    frame = frame.f_back
                seen[";".join(reversed(stack))] += 1

    def write(_number: int, _frame: FrameType | None) -> None:
        lines = [f"{stack} {count}" for stack, count in seen.most_common()]
        _put(path, "\n".join(lines) + "\n")
        seen.clear()

    signal.signal(signal.SIGUSR2, write)
    threading.Thread(target=look, daemon=True).start()


def _put(path: str, text: str) -> None:
    """Write a file that is there whole or not at all: another process waits for it."""
    part = Path(f"{path}.part")
    part.write_text(text, encoding="utf-8")
    part.rename(path)


def _allocations(path: str) -> None:
    """Trace allocations, and write on SIGUSR2 which stacks hold most."""
    tracemalloc.start(_FRAMES)

    def write(_number: int, _frame: FrameType | None) -> None:
        found = tracemalloc.take_snapshot().statistics("traceback")[:_SHOWN]
        text = [f"{item.size / 2**20:.2f} MiB in {item.count}\n" + "\n".join(item.traceback.format()) for item in found]
        _put(path, "\n\n".join(text) + "\n")

    signal.signal(signal.SIGUSR2, write)


if __name__ == "__main__":
    _resolve(int(os.environ["BENCH_LEDGER_PORT"]))
    _heap(os.environ["BENCH_HEAP"])
    match os.environ.get("BENCH_PROFILE"):
        case "stacks":
            _profile(os.environ["BENCH_PROFILE_FILE"])
        case "allocations":
            _allocations(os.environ["BENCH_PROFILE_FILE"])
    sys.exit(main())
