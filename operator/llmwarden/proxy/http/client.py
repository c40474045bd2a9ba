"""A small HTTP/1.1 client for the control side (ledger, collector): one kept connection, one request at a time. Off the hot path."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final

import msgspec

from llmwarden.errors import UnavailableError
from llmwarden.proxy.settings import Origin, parse_origin

_MAX_BODY: Final = 8 * 1024 * 1024  # bytes of an answer
_MAX_HEAD: Final = 64 * 1024


class ClientError(UnavailableError):
    """No usable answer came: refused, timed out, broken, or not HTTP. `reason` is short enough for a label."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Answer(msgspec.Struct, frozen=True):
    """An answer; of the headers only what is used."""

    status: int
    body: bytes


class Client:
    """Requests to one origin. Not reusable while a request is under way: callers that overlap wait for each other."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self._origin: Origin = parse_origin(url)
        self._tls = tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._lock = asyncio.Lock()

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout: float,  # noqa: ASYNC109 - a bound of the whole
    ) -> Answer:
        """One request and its answer within `timeout` seconds. Raises ClientError.

        A kept connection that turns out dead is replaced once: all our requests may be repeated.
        """
        try:
            async with asyncio.timeout(timeout), self._lock:
                try:
                    return await self._try_twice(method, path, headers or {}, body)
                except BaseException:  # a time-out is a cancellation here; who only waits for the lock drops nothing
                    self._drop()
                    raise
        except TimeoutError as error:
            message = f"{self._origin.authority} did not answer within {timeout:g} s"
            raise ClientError(message, reason="timeout") from error
        except ssl.SSLError as error:
            message = f"{self._origin.authority}: {error.reason or error}"
            raise ClientError(message, reason="tls") from error
        except (OSError, EOFError) as error:
            message = f"{self._origin.authority} cannot be reached: {error}"
            raise ClientError(message, reason="connect") from error
        except (ValueError, IndexError, asyncio.LimitOverrunError) as error:
            message = f"{self._origin.authority} did not answer in HTTP: {error}"
            raise ClientError(message, reason="protocol") from error

    async def _try_twice(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        reused = self._streams is not None
        try:
            return await self._exchange(method, path, headers, body)
        except (OSError, EOFError):
            self._drop()
            if not reused:
                raise
            return await self._exchange(method, path, headers, body)

    def close(self) -> None:
        """Close the kept connection."""
        self._drop()

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        origin = self._origin
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                origin.host,
                origin.port,
                limit=_MAX_HEAD,
                ssl=self._tls if origin.tls else None,
                server_hostname=origin.host if origin.tls else None,
            )
        reader, writer = self._streams
        lines = [f"{method} {origin.prefix}{path} HTTP/1.1", f"Host: {origin.authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
        fields = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip()
        data = await self._read_body(reader, status, fields)
        if (
            fields.get("connection", "").lower() == "close"
            or head[0].startswith("HTTP/1.0")
            or self._unframed(status, fields)
        ):
            self._drop()
        return Answer(status, data)

    @staticmethod
    def _unframed(status: int, fields: Mapping[str, str]) -> bool:
        return status not in {204, 304} and "content-length" not in fields and "transfer-encoding" not in fields

    async def _read_body(self, reader: asyncio.StreamReader, status: int, fields: Mapping[str, str]) -> bytes:
        if status in {204, 304}:
            return b""
        if fields.get("transfer-encoding", "").lower() == "chunked":
            out = bytearray()
            while True:
                size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
                if size < 0 or len(out) + size > _MAX_BODY:
                    message = "the answer is too large"
                    raise ValueError(message)
                piece = await reader.readexactly(size + 2)
                if size == 0:
                    return bytes(out)
                out += piece[:-2]
        length = int(fields.get("content-length", "-1"))
        if length > _MAX_BODY:
            message = "the answer is too large"
            raise ValueError(message)
        if length >= 0:
            return await reader.readexactly(length)
        out = bytearray()
        while piece := await reader.read(_MAX_HEAD):
            out += piece
            if len(out) > _MAX_BODY:
                message = "the answer is too large"
                raise ValueError(message)
        return bytes(out)
