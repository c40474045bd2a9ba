"""Engines are asked what they are, over real HTTP on loopback."""

import asyncio
import gzip
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from llmwarden.control.observe import engines as module
from llmwarden.control.observe.engines import AGAIN_SECONDS, RETRY_SECONDS, Address, Engines
from llmwarden.snapshot import EngineIdentity

SAMPLES = Path(__file__).parents[1] / "domain" / "engines"
NAME = ("models", "chat")


@contextmanager
def server(pages: dict[str, str]) -> Iterator[tuple[int, list[str]]]:
    """Serve these pages; gives the port and the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            text = pages.get(self.path)
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            del format, args

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running.server_address[1], asked
        running.shutdown()


@contextmanager
def raw(answer: bytes, trickle: bytes = b"") -> Iterator[int]:
    """Answer every connection with these bytes, then with more of others for as long as somebody listens; gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

        def talk(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.recv(65536)
                connection.sendall(answer)
                while trickle:
                    time.sleep(0.2)
                    connection.sendall(trickle)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def sample(name: str) -> str:
    return (SAMPLES / f"{name}.prom").read_text(encoding="utf-8")


def ask(
    port: int, type_: str, clock: list[float] | None = None, engines: Engines | None = None
) -> EngineIdentity | None:
    async def run() -> EngineIdentity | None:
        asker = engines or Engines(lambda: (clock or [0.0])[0])
        try:
            found = await asker.ask([Address(NAME, "uid-1", "127.0.0.1", port, type_)])
            return found.get(NAME)
        finally:
            await asker.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("pages", "type_", "expected"),
    [
        (
            {"/metrics": sample("vllm"), "/version": '{"version":"0.32.0"}'},
            "VLLM",
            EngineIdentity("VLLM", "0.32.0"),
        ),
        ({"/metrics": sample("vllm-ray")}, "OpenAICompatible", EngineIdentity("VLLM")),
        (
            {"/v1/metrics": sample("nim"), "/v1/version": '{"release":"1.8.4","api":"1.8.0"}'},
            "NIM",
            EngineIdentity("NIM", "1.8.4"),
        ),
        (
            {"/metrics": sample("sglang"), "/get_server_info": '{"version":"0.5.2"}'},
            "VLLM",
            EngineIdentity(
                "SGLang", "0.5.2", "Its metrics are those of SGLang, but backend.type is VLLM. Correct backend.type."
            ),
        ),
        (
            {"/metrics": sample("llama-cpp"), "/props": '{"build_info":"b6000-abc"}'},
            "LlamaCpp",
            EngineIdentity("LlamaCpp", "b6000-abc", "Missing in this version, or disabled by its flags: cache_used."),
        ),
        (
            {"/api/version": '{"version":"0.12.3"}'},
            "Ollama",
            EngineIdentity("Ollama", "0.12.3", "Ollama has no metrics, so only what the proxy measures is shown."),
        ),
        (
            {"/metrics": "go_goroutines 3\n"},
            "OpenAICompatible",
            EngineIdentity("", "", "Its metrics belong to no supported engine, so its queue and cache are not shown."),
        ),
        ({}, "VLLM", None),
        ({"/metrics": sample("tgi"), "/info": "<html>"}, "TGI", EngineIdentity("TGI")),
    ],
)
def test_an_engine_says_what_it_is(pages: dict[str, str], type_: str, expected: EngineIdentity | None) -> None:
    with server(pages) as (port, _):
        found = ask(port, type_)
    # What it leaves out and its bounds are the table's business: tests/unit/domain/test_engines.py.
    assert (found and replace(found, missing=(), queue_bounds=())) == expected


def test_its_bounds_and_gaps_are_kept_for_objectives() -> None:
    with server({"/metrics": sample("vllm")}) as (port, _):
        found = ask(port, "VLLM")
    assert found is not None
    assert found.queue_bounds[0] == 0.3
    assert found.missing == ()
    with server({"/metrics": sample("vllm-old")}) as (port, _):
        found = ask(port, "VLLM")
    assert found is not None
    assert "queue" in found.missing


def test_it_is_asked_again_when_the_pod_is_another_or_much_time_has_passed() -> None:
    now = [0.0]

    async def run(port: int, asked: list[str]) -> None:
        engines = Engines(lambda: now[0])

        async def look(pod: str) -> int:
            before = len(asked)
            assert (await engines.ask([Address(NAME, pod, "127.0.0.1", port, "VLLM")]))[NAME].version == "0.32.0"
            return len(asked) - before

        assert await look("a") == 2
        assert await look("a") == 0
        assert await look("b") == 2
        now[0] += AGAIN_SECONDS + 1
        assert await look("b") == 2
        assert await engines.ask([]) == {}
        await engines.close()

    with server({"/metrics": sample("vllm"), "/version": '{"version":"0.32.0"}'}) as (port, asked):
        asyncio.run(run(port, asked))


def test_what_was_known_outlives_a_pod_that_does_not_answer() -> None:
    now = [0.0]
    pages = {"/metrics": sample("vllm"), "/version": '{"version":"0.32.0"}'}

    async def run(port: int) -> None:
        engines = Engines(lambda: now[0])
        here = [Address(NAME, "a", "127.0.0.1", port, "VLLM")]
        assert NAME in await engines.ask(here)
        pages.clear()
        now[0] += AGAIN_SECONDS + 1
        assert (await engines.ask(here))[NAME].type == "VLLM"
        # Another type is another engine: nothing is known of it yet, and it is asked again soon.
        other = [Address(NAME, "b", "127.0.0.1", port, "TGI")]
        assert NAME not in await engines.ask(other)
        pages["/metrics"] = sample("tgi")
        assert NAME not in await engines.ask(other)
        now[0] += RETRY_SECONDS + 1
        assert (await engines.ask(other))[NAME].type == "TGI"
        await engines.close()

    with server(pages) as (port, _):
        asyncio.run(run(port))


def test_a_pod_that_trickles_its_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.5)
    with raw(b"HTTP/1.1 200 OK\r\n\r\n", trickle=b"# nothing\n") as port:
        started = time.monotonic()
        assert ask(port, "VLLM") is None
        assert time.monotonic() - started < 20  # a few paths, each cut off


def test_what_a_pod_has_packed_is_not_unpacked() -> None:
    bomb = gzip.compress(b"# " + b"0" * 10**7)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
    with raw(head.encode() + bomb) as port:
        assert ask(port, "VLLM") is None


@pytest.mark.parametrize("version", ["[" * 200_000, '{"version":' * 50_000, "1" * 5000, '{"version":1e999}'])
def test_a_version_that_is_nonsense_is_unknown(version: str) -> None:
    with server({"/metrics": sample("vllm"), "/version": version}) as (port, _):
        found = ask(port, "VLLM")
    assert found is not None
    assert found.type == "VLLM"
    assert found.version in {"", "inf"}
