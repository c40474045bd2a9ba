"""What must hold whatever bytes come: each function takes any bytes, and raises where the proxy does not keep its promises.

Hypothesis feeds them in the test command (`test_fuzz.py`), atheris guided by coverage for as long as one likes (`make fuzz`).
The first bytes say where the rest is cut: the pieces in which it arrives.
"""

import contextlib
from collections.abc import Callable
from typing import Final

import h11

from llmwarden.proxy.framing import SPLITTERS, Framing
from tests.fuzz.harness import Reader, Seen, answers_in, converse, cut, requests_in

CUTS: Final = 4  # bytes of the input that say where it is cut
# The other parser refuses raw UTF-8 in a path; we pass it on, as most servers take it. Elsewhere it is as good as a letter.
_ASCII: Final = bytes(range(0x80)) + b"~" * 0x80
_ASK: Final = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


def _ok(request: Seen) -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    return [head if request.first[0] == b"HEAD" else head + b"ok"]


def requests(data: bytes) -> None:
    """A client may send anything: what goes upstream is HTTP for others too, says what the client said, and no more than that."""
    at, sent = list(data[:CUTS]), data[CUTS:].translate(_ASCII)
    whole, pieces = converse([sent], _ok), converse(cut(sent, at), _ok)
    assert whole.requests == pieces.requests
    # The other parser may read further than ours; neither may see a request that the other does not.
    got = [(item.first[0], item.body) for item in whole.requests]
    assert got == [(item.first[0], item.body) for item in requests_in(sent)[: len(got)]]
    answers = answers_in(whole.to_client, [method for method, _ in got])
    assert [item.first[0] for item in answers[: len(got)]] == [b"200"] * len(got)
    assert all(item.first[0][:1] == b"4" for item in answers[len(got) :])


def answers(data: bytes) -> None:
    """An upstream may answer anything: the client gets HTTP, with the body that the upstream sent, or sees that it is cut short."""
    at, sent = list(data[:CUTS]), data[CUTS:]
    whole = converse([_ASK], lambda _: [sent], ends=True)
    pieces = converse([_ASK], lambda _: cut(sent, at), ends=True)
    assert _answer(whole.to_client) == _answer(pieces.to_client)
    ours, theirs = _answer(whole.to_client), _answer(sent)
    if ours is not None and ours.first[0] != b"502":
        assert theirs is not None
        assert (ours.first[0], ours.body) == (theirs.first[0], theirs.body)


def _answer(data: bytes) -> Seen | None:
    """The first answer as h11 reads it: None where it is not whole, or none."""
    reader = Reader(h11.CLIENT)
    with contextlib.suppress(h11.RemoteProtocolError):
        if not reader.feed(data):
            reader.end()
    return reader.found[0] if reader.found else None


def framings(data: bytes) -> None:
    """However a stream is framed and cut: its bytes pass as they are, its events are the same."""
    at, sent = list(data[:CUTS]), data[CUTS:]
    for framing in Framing:
        whole, pieces = _split(framing, [sent]), _split(framing, cut(sent, at))
        assert whole[0] == pieces[0] == sent, framing
        assert whole[1] == pieces[1], framing


def _split(framing: Framing, pieces: list[bytes]) -> tuple[bytes, list[bytes]]:
    splitter = SPLITTERS[framing]()
    found = [item for piece in pieces for item in splitter.feed(piece)]
    found.append(splitter.rest())
    return b"".join(raw for raw, _ in found), [payload for _, payload in found if payload is not None]


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"requests": requests, "answers": answers, "framings": framings}
