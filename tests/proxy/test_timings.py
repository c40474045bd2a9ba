"""The proxy's times against those of the client and of the provider, which measure themselves in this process.

What the proxy sees lies between the two, whatever the machine does meanwhile: it hears of a request after its client began and before the
provider did, and of a token after the provider sent it and before the client got it. So its figures are held between theirs for every
call, and near the client's by the best of many calls: nothing here depends on how busy the machine is. How near they are at the median
is a figure of `python -m tests.proxy.test_timings`.
"""

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.proxy.fakes import STREAM, STREAM_HEAD, Proxy, Received, Server, chunk, post, running, stream_events, whole

CALLS = 30
GAP = 0.01
WORDS = ["a", "b", "c", "d"]
NEAR = 0.001  # seconds


class Provider:
    """Waits before its first word and between words; notes when it did what."""

    def __init__(self) -> None:
        self.times: list[list[float]] = []

    async def __call__(self, _: Received, writer: asyncio.StreamWriter) -> None:
        begun = time.perf_counter()
        writer.write(STREAM_HEAD)
        role, *rest = stream_events("m-1", WORDS, with_usage=True)
        writer.write(chunk(role))
        times = []
        for word in rest[: len(WORDS)]:
            await asyncio.sleep(GAP)
            times.append(time.perf_counter() - begun)
            writer.write(chunk(word))
        last = b"".join(chunk(item) for item in rest[len(WORDS) :]) + b"0\r\n\r\n"
        # Before it is written, as above: between the two this process may have to wait for the machine.
        self.times.append([*times, time.perf_counter() - begun])
        writer.write(last)


async def ask(proxy: Proxy) -> list[float]:
    """Seconds from before the request is written to each word, and to the answer's end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    begun = time.perf_counter()
    writer.write(post(STREAM, close=False))
    times = []
    for word in WORDS:
        await reader.readuntil(b'"content":"%b"' % word.encode())
        times.append(time.perf_counter() - begun)
    await reader.readuntil(b"0\r\n\r\n")
    times.append(time.perf_counter() - begun)
    writer.close()
    return times


def figures(times: list[float]) -> dict[str, float]:
    return {"ttft": times[0], "decode": times[-2] - times[0], "duration": times[-1]}


async def measure(directory: Path, calls: int) -> list[tuple[dict[str, float], dict[str, float], dict[str, float]]]:
    """Of each call: by the provider, by the proxy (its span), by the client."""
    spans: list[dict[str, Any]] = []

    async def collect(request: Received, writer: asyncio.StreamWriter) -> None:
        for resource in request.json()["resourceSpans"]:
            spans.extend(span for scope in resource["scopeSpans"] for span in scope["spans"])
        writer.write(whole(200, b"{}"))

    collector = Server(collect)
    await collector.start()
    provider = Provider()
    try:
        async with running(directory, provider, otlp=f"http://127.0.0.1:{collector.port}") as (_, proxy):
            clients = [figures(await ask(proxy)) for _ in range(calls)]
            async with asyncio.timeout(20):
                while len(spans) < calls:
                    await asyncio.sleep(0.05)
            decode = await proxy.metric("gen_ai_server_time_per_output_token_seconds_sum")
    finally:
        await collector.stop()
    spans.sort(key=lambda span: int(span["startTimeUnixNano"]))
    proxies = []
    for span in spans:
        first = next(item for item in span["attributes"] if item["key"] == "gen_ai.response.time_to_first_chunk")
        nanoseconds = int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])
        proxies.append({"ttft": float(first["value"]["doubleValue"]), "duration": nanoseconds / 1e9, "decode": decode})
    return list(zip(map(figures, provider.times), proxies, clients, strict=True))


async def test_times_lie_between_the_providers_and_the_clients(tmp_path: Path) -> None:
    calls = await measure(tmp_path, CALLS)
    slack = 2e-6  # of the span's two roundings
    for provider, proxy, client in calls:
        for name in ("ttft", "duration"):
            assert provider[name] - slack <= proxy[name] <= client[name] + slack, name
    for name in ("ttft", "duration"):
        assert min(client[name] - proxy[name] for _, proxy, client in calls) < NEAR
    # Per output token, of which the proxy shows the sum only: three gaps in three tokens of output.
    apart = sum(client["decode"] for _, _, client in calls) / 2 - calls[0][1]["decode"]
    assert abs(apart) / CALLS < GAP


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        measured = asyncio.run(measure(Path(folder), 300))
    for figure in ("ttft", "duration"):
        differences = sorted(client[figure] - proxy[figure] for _, proxy, client in measured)
        p50, p99 = statistics.median(differences), differences[int(len(differences) * 0.99)]
        line = {"figure": figure, "client minus proxy, ms": {"p50": round(p50 * 1e3, 3), "p99": round(p99 * 1e3, 3)}}
        print(json.dumps(line))  # noqa: T201 - its result
