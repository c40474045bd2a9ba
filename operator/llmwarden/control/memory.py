"""How this process gives memory back: glibc keeps what was freed between things that stay, unless it is told otherwise."""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE: Final = 64 * 1024  # bytes; a page of a list, an answer of Prometheus


def give_back() -> None:
    """Let large blocks go back to the system when they are freed, and threads share one heap. Where there is no glibc, nothing happens.

    Set once, these do not adapt any more: glibc would raise its threshold to the largest block that it has seen freed (mallopt(3)).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _LARGE), (_M_ARENA_MAX, 1)):
        mallopt(parameter, value)
