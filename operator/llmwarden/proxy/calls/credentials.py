"""The provider's key, where the proxy holds it instead of the application. It goes into one header, and nowhere else."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_CHECK_SECONDS: Final = 1.0  # how often the file is looked at
# Headers in which an application could send a key; all of them give way to ours.
_KEY_HEADERS: Final = frozenset({b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key"})
_NONE: Final[tuple[frozenset[bytes], bytes]] = (frozenset(), b"")
_HEADER_OF: Final = {
    "AzureOpenAI": b"api-key: %b\r\n",
    "Anthropic": b"x-api-key: %b\r\n",
    "Gemini": b"x-goog-api-key: %b\r\n",
}
_BEARER: Final = b"Authorization: Bearer %b\r\n"


class Credentials:
    """The key in a file that Kubernetes replaces when the Secret changes. Without a readable file the application's own key travels."""

    def __init__(self, path: str | None, backend: str, missing: Callable[[], None]) -> None:
        self._path = Path(path) if path else None
        self._form = _HEADER_OF.get(backend, _BEARER)
        self._missing = missing
        self._stamp: tuple[int, int, int] | None = None
        self._checked = -_CHECK_SECONDS
        self._current = _NONE

    def headers(self) -> tuple[frozenset[bytes], bytes]:
        """Names to leave out of the request, and the line to put in (with CRLF); both empty when there is no key of ours."""
        if self._path is None:
            return _NONE
        now = time.monotonic()
        if now - self._checked >= _CHECK_SECONDS:
            self._checked = now
            self._refresh(self._path)
        if not self._current[1]:
            self._missing()
        return self._current

    def _refresh(self, path: Path) -> None:
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return
            key = path.read_bytes().strip()
        except OSError:
            self._stamp = None
            self._current = _NONE
            return
        self._stamp = stamp
        usable = bool(key) and not any(byte in key for byte in b"\r\n\0")
        self._current = (_KEY_HEADERS, self._form % key) if usable else _NONE
