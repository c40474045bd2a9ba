"""Load for the soak, as processes of their own: `python -m tests.soak.traffic upstream` and `… clients PORT STREAMS SECONDS INTERVAL`.

uvloop and protocols, so that the load costs less than what is under it. The upstream prints its port, and what it served when it
ends; the clients print what they did.
"""

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from typing import Any, ClassVar, cast

import uvloop

CHUNKS = 64
USAGE = {"prompt_tokens": 40, "completion_tokens": CHUNKS, "total_tokens": 40 + CHUNKS}
KINDS = ("stream", "plain", "error", "leave")
WEIGHTS = (80, 10, 5, 5)
END = b'"end":1}'  # how every plain answer ends
LAST = b"0\r\n\r\n"


def _chunk(document: object) -> bytes:
    data = b"data: %b\n\n" % (document if isinstance(document, bytes) else json.dumps(document).encode())
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(choices: list[Any], **more: Any) -> bytes:
    return _chunk({"id": "a", "model": "m", "choices": choices, **more})


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CONTENT = _event([{"index": 0, "delta": {"content": "word"}, "finish_reason": None}])
TAIL = _event([], usage=USAGE) + _chunk(b"[DONE]") + LAST


def _whole(status: int, document: dict[str, Any]) -> bytes:
    body = json.dumps({**document, "end": 1}, separators=(",", ":")).encode()
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


PLAIN = _whole(200, {"id": "a", "model": "m", "choices": [{"index": 0, "message": {"content": "x"}}], "usage": USAGE})
ERROR = _whole(500, {"error": {"message": "no", "type": "server_error"}})


class Upstream(asyncio.Protocol):
    """An OpenAI-like server; a stream's pace stands in its request's `x-interval`, in seconds."""

    served: ClassVar[Counter[str]] = Counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.loop = asyncio.get_running_loop()
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        low = head.lower()
        if len(body) < int(low.split(b"content-length:")[1].split(b"\r\n")[0]):
            return
        self.buffer = b""
        if b'"broken"' in body:
            self._whole("error", ERROR)
        elif b'"stream"' not in body:
            self._whole("plain", PLAIN)
        else:
            self.transport.write(HEAD)
            self._next(CHUNKS, float(low.split(b"x-interval:")[1].split(b"\r\n")[0]))

    def _whole(self, kind: str, answer: bytes) -> None:
        self.served[kind] += 1
        self.transport.write(answer)

    def _next(self, left: int, interval: float) -> None:
        if self.transport.is_closing():
            return
        if not left:
            self.served["stream"] += 1
            self.transport.write(TAIL)
            return
        self.transport.write(CONTENT)
        if interval:
            self.loop.call_later(interval, self._next, left - 1, interval)
        else:
            self.loop.call_soon(self._next, left - 1, interval)


class Client(asyncio.Protocol):
    """One client: a call after the other until `until` (the loop's clock)."""

    def __init__(self, done: Counter[str], dice: random.Random, until: float, interval: float) -> None:
        self.done = done
        self.dice = dice
        self.until = until
        self.interval = interval
        self.kind = ""
        self.tail = b""
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        if asyncio.get_running_loop().time() >= self.until:
            self.kind = ""
            self.transport.close()
            return
        self.kind = self.dice.choices(KINDS, WEIGHTS)[0]
        self.tail = b""
        document: dict[str, Any] = {
            "model": "broken" if self.kind == "error" else "m",
            "messages": [{"role": "user", "content": "x" * self.dice.randrange(1, 5000)}],
        }
        if self.kind in {"stream", "leave"}:
            document |= {"stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(document).encode()
        self.transport.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-interval: %f\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (self.interval, len(body), body)
        )

    def data_received(self, data: bytes) -> None:
        if self.kind == "leave":
            if b"word" in data:
                self.done["leave"] += 1
                self.transport.abort()
            return
        self.tail = (self.tail + data)[-16:]
        if self.tail.endswith(LAST if self.kind == "stream" else END):
            self.done[self.kind] += 1
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.kind not in {"", "leave"}:
            self.done[f"lost in {self.kind}: {exc}"] += 1
        self.ended.set_result(None)


async def upstream() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(Upstream, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await stop.wait()
    sys.stdout.write(json.dumps(Upstream.served) + "\n")


async def clients(port: int, streams: int, seconds: float, interval: float) -> None:
    loop = asyncio.get_running_loop()
    done: Counter[str] = Counter()
    dice = random.Random(7)  # noqa: S311 - the same mix each time
    until = loop.time() + seconds

    async def one(number: int) -> None:
        mine = random.Random(dice.random())  # noqa: S311
        await asyncio.sleep(number / streams * min(interval * CHUNKS, seconds / 4))  # not all in step
        while loop.time() < until:
            _, protocol = await loop.create_connection(lambda: Client(done, mine, until, interval), "127.0.0.1", port)
            await protocol.ended

    await asyncio.gather(*(one(number) for number in range(streams)))
    sys.stdout.write(json.dumps(done) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "upstream":
        uvloop.run(upstream())
    else:
        uvloop.run(clients(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])))
