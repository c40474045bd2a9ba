"""The recorded shapes, and how a dialect reads them without sockets."""

from pathlib import Path

from llmwarden.proxy.dialects import found, ordered
from llmwarden.proxy.dialects.base import Answer, Api, Asked, Event, Match, Target
from llmwarden.proxy.framing import SPLITTERS, Framing

RECORDED = Path(__file__).resolve().parents[2] / "proxy" / "recorded"


def shape(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


def match(path: str, *, backend: str = "", query: str = "", method: str = "POST") -> Match | None:
    """What a service with such a backend takes a request for."""
    for dialect in ordered(found(), backend):
        hit = dialect.match(Target(method, path, query, backend))
        if hit is not None:
            return hit
    return None


def api(path: str) -> Api:
    hit = match(path)
    assert hit is not None
    return hit.api


def asked(path: str, body: bytes, *, backend: str = "") -> Asked:
    hit = match(path, backend=backend)
    assert hit is not None
    request = hit.api.read_request(body, hit)
    assert request is not None
    return request


def streamed(path: str, name: str) -> tuple[Answer, list[Event]]:
    """An answer as it is known when its stream has passed, each event a second after the one before."""
    answer, splitter, reader = Answer(), SPLITTERS[Framing.SSE](), api(path)
    pieces = [*splitter.feed(shape(name)), splitter.rest()]
    payloads = [payload for _, payload in pieces if payload is not None]
    return answer, [reader.event(answer, payload, float(at)) for at, payload in enumerate(payloads)]


def whole(path: str, name: str) -> Answer:
    answer = Answer()
    api(path).whole(answer, shape(name))
    return answer
