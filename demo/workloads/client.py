"""An application that calls an LLM with the `openai` client and measures for itself what it gets.

It is ordinary: the base URL and the key come from the variables that the client reads (`OPENAI_BASE_URL`, `OPENAI_API_KEY`), and nothing
in it knows of LLM Warden. What it measures is what a demo or a test compares LLM Warden's figures with.

    MODEL            gpt-4o-mini
    RATE             calls started per second                         2
    STREAM_PERCENT   share of calls that stream                       50
    INCLUDE_USAGE    streams ask for usage (else tokens are counted
                     by content chunks: one each with the simulator)  true
    MAX_TOKENS       of an answer; 0 sets none                        0
    PROMPT           what is asked
    CALLS            calls in all; 0 goes on for ever                 0
    CONCURRENCY      calls in flight at most                          20
    REFUSED_PAUSE    seconds without calls after a refusal            1
    PORT             of GET /figures and /health                      8080
"""

import asyncio
import json
import math
import os
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import openai
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

KEPT_SECONDS = 900.0
PRINT_SECONDS = 5.0
SERVED = 200
_TRIM_ABOVE = 1000


@dataclass(frozen=True)
class Call:
    """One call as the application saw it: seconds, tokens. `ttft` is None where nothing streamed."""

    ended: float
    duration: float
    ttft: float | None
    input_tokens: int
    output_tokens: int
    status: int


def quantile(values: list[float], share: float) -> float | None:
    """Return the value below which `share` of the values lie (linear between ranks), None for no values."""
    if not values:
        return None
    values = sorted(values)
    rank = share * (len(values) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (rank - low)


@dataclass
class Figures:
    """Totals since the start, and the calls of the last quarter of an hour for percentiles."""

    started: float = field(default_factory=time.time)
    calls: list[Call] = field(default_factory=list)
    requests: Counter[int] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    refusal: str = ""

    def add(self, call: Call) -> None:
        """Count one call."""
        self.requests[call.status] += 1
        self.input_tokens += call.input_tokens
        self.output_tokens += call.output_tokens
        self.calls.append(call)
        if len(self.calls) > _TRIM_ABOVE and self.calls[0].ended < call.ended - KEPT_SECONDS:
            self.calls = [kept for kept in self.calls if kept.ended >= call.ended - KEPT_SECONDS]

    def summary(self, seconds: float, until: float | None = None) -> dict[str, object]:
        """Return the totals, and percentiles of the successful calls of the last `seconds`, as of `until` (Unix time, default now)."""
        end = time.time() if until is None else until
        since = end - seconds
        recent = [call for call in self.calls if since <= call.ended <= end and call.status == SERVED]
        later = [call for call in self.calls if call.ended > end]
        requests = self.requests - Counter(call.status for call in later)
        durations = [call.duration for call in recent]
        ttfts = [call.ttft for call in recent if call.ttft is not None]
        return {
            "startedAt": self.started,
            "windowSeconds": seconds,
            "requests": {str(status): count for status, count in sorted(requests.items())},
            "tokens": {
                "input": self.input_tokens - sum(call.input_tokens for call in later),
                "output": self.output_tokens - sum(call.output_tokens for call in later),
            },
            "calls": len(recent),
            "durationMean": sum(durations) / len(durations) if durations else None,
            "durationP95": quantile(durations, 0.95),
            "ttftMean": sum(ttfts) / len(ttfts) if ttfts else None,
            "ttftP95": quantile(ttfts, 0.95),
            "refusal": self.refusal,
        }


class Application:
    """Starts calls at a steady rate and keeps the figures."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.model = environ.get("MODEL", "gpt-4o-mini")
        self.rate = float(environ.get("RATE", "2"))
        self.stream_percent = float(environ.get("STREAM_PERCENT", "50"))
        self.include_usage = environ.get("INCLUDE_USAGE", "true") == "true"
        self.max_tokens = int(environ.get("MAX_TOKENS", "0"))
        self.prompt = environ.get("PROMPT", "Where is my order? I have been waiting for a week and nobody answers.")
        self.refused_pause = float(environ.get("REFUSED_PAUSE", "1"))
        self.calls = int(environ.get("CALLS", "0"))
        self.figures = Figures()
        self._slots = asyncio.Semaphore(int(environ.get("CONCURRENCY", "20")))
        self._random = random.Random(7)  # noqa: S311 - chooses who streams
        self._paused_until = 0.0
        # The client's own retries would hide what it was told.
        self._client = openai.AsyncOpenAI(max_retries=0, timeout=60.0)

    async def run(self) -> None:
        """Call until cancelled, or until the calls are used up."""
        print(
            json.dumps({"calling": str(self._client.base_url), "model": self.model, "perSecond": self.rate}), flush=True
        )
        async with asyncio.TaskGroup() as group:
            due, left = time.monotonic(), self.calls or math.inf
            while left > 0:
                left -= 1
                due = max(due + 1 / self.rate, time.monotonic() - 1, self._paused_until)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await self._slots.acquire()
                group.create_task(self._one()).add_done_callback(lambda _: self._slots.release())

    async def _one(self) -> None:
        streams = self._random.random() * 100 < self.stream_percent
        started = time.monotonic()
        ttft: float | None = None
        tokens = (0, 0)
        status = 200
        try:
            if streams:
                ttft, tokens = await self._stream(started)
            else:
                answer = await self._client.chat.completions.create(**self._arguments())
                if answer.usage:
                    tokens = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
            self._say_refusal("")
        except openai.RateLimitError as error:
            status = error.status_code
            self._paused_until = time.monotonic() + self.refused_pause
            self._say_refusal(f"{type(error).__name__} {error.status_code} {error.code}: {error.message}")
        except openai.APIStatusError as error:
            status = error.status_code
            print(json.dumps({"failed": status, "message": error.message}), flush=True)
        except openai.APIError as error:
            # No answer, or an error event within a stream.
            status = 0
            print(json.dumps({"failed": type(error).__name__, "message": str(error)}), flush=True)
            await asyncio.sleep(1)
        ended = time.monotonic()
        self.figures.add(Call(time.time(), ended - started, ttft, *tokens, status))

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": self.prompt}]}
        if self.max_tokens:
            arguments["max_tokens"] = self.max_tokens
        return arguments

    async def _stream(self, started: float) -> tuple[float | None, tuple[int, int]]:
        arguments = {**self._arguments(), "stream": True}
        if self.include_usage:
            arguments["stream_options"] = {"include_usage": True}
        ttft: float | None = None
        tokens = (0, 0)
        async with await self._client.chat.completions.create(**arguments) as stream:
            async for chunk in stream:
                if chunk.usage:
                    tokens = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
                if chunk.choices and chunk.choices[0].delta.content:
                    if ttft is None:
                        ttft = time.monotonic() - started
                    if not self.include_usage:
                        tokens = (0, tokens[1] + 1)
        return ttft, tokens

    def _say_refusal(self, refusal: str) -> None:
        if refusal != self.figures.refusal:
            self.figures.refusal = refusal
            print(json.dumps({"refused": refusal} if refusal else {"servedAgain": True}), flush=True)

    async def report(self) -> None:
        """Print the figures of the last minute, every few seconds."""
        while True:
            await asyncio.sleep(PRINT_SECONDS)
            print(json.dumps(self.figures.summary(60)), flush=True)


async def main() -> None:
    """Call, report and serve the figures until ended."""
    application = Application(os.environ)

    async def figures(request: Request) -> Response:
        seconds, until = request.query_params.get("seconds", "300"), request.query_params.get("until")
        return JSONResponse(application.figures.summary(float(seconds), float(until) if until else None))

    async def health(_: Request) -> Response:
        return Response()

    routes = [Route("/figures", figures), Route("/health", health)]
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=routes), host="", port=int(os.environ.get("PORT", "8080")), log_level="warning")
    )
    async with asyncio.TaskGroup() as group:
        calling = group.create_task(application.run())
        reporting = group.create_task(application.report())
        await server.serve()
        calling.cancel()
        reporting.cancel()


if __name__ == "__main__":
    asyncio.run(main())
