"""An upstream that answers with recorded bodies: what stands in for a paid provider, or an engine that needs a GPU."""

import asyncio
from pathlib import Path

import msgspec

from tests.proxy.fakes import Received, chunk, whole

RECORDED = Path(__file__).parent / "recorded"
_TYPES = {
    ".json": "application/json; charset=UTF-8",
    ".sse": "text/event-stream",
    ".ndjson": "application/x-ndjson",
}
_PIECE = 100  # bytes of a chunk: they do not care where events begin


class Reply(msgspec.Struct, frozen=True):
    """A recorded body, by its name, and what goes with it. `streamed`: in chunks also where it is JSON."""

    name: str
    status: int = 200
    headers: tuple[str, ...] = ()
    streamed: bool = False
    then_lost: bool = False  # the connection breaks after the body, without an end


class Replay:
    """A handler for `fakes.Server`. `replies` is by the end of the path, without its query; the first that fits answers."""

    def __init__(self, folder: str, replies: dict[str, Reply | str]) -> None:
        self.folder = RECORDED / folder
        self.replies = replies

    async def __call__(self, request: Received, writer: asyncio.StreamWriter) -> None:
        path = request.target.partition("?")[0]
        found = next((reply for end, reply in self.replies.items() if path.endswith(end)), None)
        if found is None:
            writer.write(whole(200, b'{"models":[]}'))
            return
        reply = Reply(found) if isinstance(found, str) else found
        data = (self.folder / reply.name).read_bytes()
        kind = _TYPES[Path(reply.name).suffix]
        if kind == _TYPES[".json"] and not reply.streamed:
            writer.write(whole(reply.status, data, *reply.headers, content_type=kind))
            return
        head = [f"HTTP/1.1 {reply.status} Fine", f"Content-Type: {kind}", *reply.headers, "Transfer-Encoding: chunked"]
        writer.write("\r\n".join([*head, "", ""]).encode())
        for at in range(0, len(data), _PIECE):
            writer.write(chunk(data[at : at + _PIECE]))
            await writer.drain()
            await asyncio.sleep(0)
        if reply.then_lost:
            writer.transport.abort()
        else:
            writer.write(b"0\r\n\r\n")


def body_of(answer: bytes) -> bytes:
    """The body of a raw answer in chunks."""
    rest = answer.partition(b"\r\n\r\n")[2]
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body
