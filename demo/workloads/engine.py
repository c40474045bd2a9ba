"""A SIMULATOR of an inference engine: it speaks OpenAI's chat completions API and exposes vLLM's metrics, but there is no model.

Its speed is set by environment variables, so that a demo or a test knows what it must measure:

    MODELS             served model names, comma-separated             demo-llama
    TTFT_MS            time to the first token, `low-high`             100-250
    TOKEN_MS           time per further token, `low-high`              5-10
    OUTPUT_TOKENS      tokens of an answer, `low-high`                 40-80
    ERROR_PERCENT      share of requests that answer 500               0
    API_KEY            when set, other keys are refused with 401
    SEED               of the random numbers                           1
    PORT               8000

Values are drawn from a triangle: most are near the low end, fewer and fewer towards the high one, as latencies are.

Text is made of words, and each word, with its leading space, is one token, of the prompt as of the answer.
"""

import asyncio
import json
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import prometheus_client as prometheus
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

VERSION = "simulator-1"
WORDS = (
    "the",
    "order",
    "is",
    "on",
    "its",
    "way",
    "and",
    "will",
    "be",
    "with",
    "you",
    "soon",
    "please",
    "tell",
    "us",
    "if",
    "we",
    "can",
    "help",
    "with",
    "anything",
    "else",
    "today",
)
# vLLM's own bounds (vllm/v1/metrics/loggers.py), so that queries written for it give sensible answers here.
TTFT_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
E2E_BOUNDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)


@dataclass(frozen=True)
class Span:
    """An interval from which values are drawn, most of them near its low end."""

    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> "Span":
        """Read `low-high`, or one number."""
        low, _, high = text.partition("-")
        return cls(float(low), float(high or low))


@dataclass(frozen=True)
class Settings:
    """What the environment says; times in milliseconds."""

    models: tuple[str, ...] = ("demo-llama",)
    ttft: Span = Span(100, 250)
    token: Span = Span(5, 10)
    output: Span = Span(40, 80)
    error_percent: float = 0.0
    api_key: str = ""
    seed: int = 1

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the variables named in this module's docstring."""
        return cls(
            models=tuple(environ.get("MODELS", "demo-llama").split(",")),
            ttft=Span.parse(environ.get("TTFT_MS", "100-250")),
            token=Span.parse(environ.get("TOKEN_MS", "5-10")),
            output=Span.parse(environ.get("OUTPUT_TOKENS", "40-80")),
            error_percent=float(environ.get("ERROR_PERCENT", "0")),
            api_key=environ.get("API_KEY", ""),
            seed=int(environ.get("SEED", "1")),
        )


class Metrics:
    """vLLM's metric names and labels: `model_name` and `engine`."""

    def __init__(self, registry: prometheus.CollectorRegistry) -> None:
        labels = ("model_name", "engine")

        def gauge(name: str, text: str) -> prometheus.Gauge:
            return prometheus.Gauge(f"vllm:{name}", text, labels, registry=registry)

        def counter(name: str, text: str, extra: tuple[str, ...] = ()) -> prometheus.Counter:
            return prometheus.Counter(f"vllm:{name}", text, labels + extra, registry=registry)

        def histogram(name: str, text: str, bounds: tuple[float, ...]) -> prometheus.Histogram:
            return prometheus.Histogram(f"vllm:{name}", text, labels, registry=registry, buckets=bounds)

        self.running = gauge("num_requests_running", "Requests in execution (simulated).")
        self.waiting = gauge("num_requests_waiting", "Requests that wait (simulated: always 0).")
        self.cache = gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1 (simulated).")
        self.prompt = counter("prompt_tokens", "Prefill tokens processed.")
        self.generation = counter("generation_tokens", "Generation tokens processed.")
        self.success = counter("request_success", "Successfully processed requests.", ("finished_reason",))
        self.queries = counter("prefix_cache_queries", "Prefix cache queries, in tokens.")
        self.hits = counter("prefix_cache_hits", "Prefix cache hits, in tokens.")
        self.preemptions = counter("num_preemptions", "Preemptions (simulated: always 0).")
        self.ttft = histogram("time_to_first_token_seconds", "Time to first token.", TTFT_BOUNDS)
        self.itl = histogram("inter_token_latency_seconds", "Inter-token latency.", TOKEN_BOUNDS)
        self.tpot = histogram(
            "request_time_per_output_token_seconds", "Time per output token of a request.", TOKEN_BOUNDS
        )
        self.e2e = histogram("e2e_request_latency_seconds", "End-to-end request latency.", E2E_BOUNDS)
        self.queue = histogram("request_queue_time_seconds", "Time in the queue (simulated: always 0).", E2E_BOUNDS)
        self.prefill = histogram("request_prefill_time_seconds", "Time until the first token.", E2E_BOUNDS)
        self.decode = histogram("request_decode_time_seconds", "Time from the first token to the last.", E2E_BOUNDS)


@dataclass(frozen=True)
class Answer:
    """One answer, decided before it is given."""

    model: str
    prompt_tokens: int
    words: tuple[str, ...]
    finish: str
    ttft: float
    gaps: tuple[float, ...]
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def usage(self) -> dict[str, object]:
        """OpenAI's usage object."""
        out = len(self.words)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": out,
            "total_tokens": self.prompt_tokens + out,
            "prompt_tokens_details": {"cached_tokens": 0},
        }


class Engine:
    """The simulated engine behind the HTTP routes."""

    def __init__(self, settings: Settings, registry: prometheus.CollectorRegistry) -> None:
        self.settings = settings
        self.metrics = Metrics(registry)
        self._random = random.Random(settings.seed)  # noqa: S311 - a simulation must repeat
        for model in settings.models:
            # Series exist from the start, as vLLM's do: a rate over a first increment is otherwise lost.
            for metric in (
                self.metrics.running, self.metrics.waiting, self.metrics.cache, self.metrics.prompt, self.metrics.generation,
                self.metrics.queries, self.metrics.hits, self.metrics.preemptions,
                self.metrics.ttft, self.metrics.itl, self.metrics.tpot, self.metrics.e2e,
                self.metrics.queue, self.metrics.prefill, self.metrics.decode,
            ):  # fmt: skip
                metric.labels(model, "0")
            for reason in ("stop", "length", "abort"):
                self.metrics.success.labels(model, "0", reason)

    def _draw(self, span: Span) -> float:
        return self._random.triangular(span.low, span.high, span.low)

    def unlucky(self) -> bool:
        """Whether this request fails, by the configured share."""
        return self._random.random() * 100 < self.settings.error_percent

    def plan(self, body: Mapping[str, object]) -> Answer:
        """Decide what to answer, and when."""
        wanted = round(self._draw(self.settings.output))
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        count = min(wanted, limit) if isinstance(limit, int) and limit > 0 else wanted
        return Answer(
            model=str(body["model"]),
            prompt_tokens=prompt_tokens(body.get("messages")),
            words=tuple((" " if index else "") + WORDS[index % len(WORDS)] for index in range(count)),
            finish="length" if count < wanted else "stop",
            ttft=self._draw(self.settings.ttft) / 1000,
            gaps=tuple(self._draw(self.settings.token) / 1000 for _ in range(count - 1)),
        )

    async def generate(self, answer: Answer) -> AsyncIterator[str]:
        """Yield the answer's words at its pace, keeping the metrics."""
        metrics, model = self.metrics, answer.model
        started = time.monotonic()
        due, last, first = started, started, 0.0
        metrics.running.labels(model, "0").inc()
        finish = "abort"
        try:
            for index, word in enumerate(answer.words):
                # Against the clock, not one sleep after another: timer slack would add up over hundreds of tokens.
                due += answer.gaps[index - 1] if index else answer.ttft
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                now = time.monotonic()
                if index:
                    metrics.itl.labels(model, "0").observe(now - last)
                else:
                    first = now
                    metrics.ttft.labels(model, "0").observe(now - started)
                    metrics.prompt.labels(model, "0").inc(answer.prompt_tokens)
                    metrics.queries.labels(model, "0").inc(answer.prompt_tokens)
                last = now
                metrics.generation.labels(model, "0").inc()
                yield word
            finish = answer.finish
            metrics.e2e.labels(model, "0").observe(last - started)
            metrics.queue.labels(model, "0").observe(0.0)
            metrics.prefill.labels(model, "0").observe(first - started)
            metrics.decode.labels(model, "0").observe(last - first)
            if len(answer.words) > 1:
                metrics.tpot.labels(model, "0").observe((last - first) / (len(answer.words) - 1))
        finally:
            metrics.running.labels(model, "0").dec()
            metrics.success.labels(model, "0", finish).inc()


def prompt_tokens(messages: object) -> int:
    """Count the words of all messages, and four for each message, as chat templates do."""
    total = 0
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [str(part.get("text") or "") for part in parts if isinstance(part, dict)]
        total += 4 + sum(len(text.split()) for text in texts)
    return total


def failure(status: int, message: str, kind: str, code: str | None = None) -> JSONResponse:
    """OpenAI's error body."""
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)


def _event(value: object) -> str:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


async def _stream(engine: Engine, answer: Answer, *, include_usage: bool) -> AsyncIterator[str]:
    def chunk(delta: dict[str, str], finish: str | None = None) -> str:
        value: dict[str, object] = {
            "id": answer.id,
            "object": "chat.completion.chunk",
            "created": answer.created,
            "model": answer.model,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        }
        if include_usage:
            value["usage"] = None
        return _event(value)

    yield chunk({"role": "assistant", "content": ""})
    async for word in engine.generate(answer):
        yield chunk({"content": word})
    yield chunk({}, answer.finish)
    if include_usage:
        yield _event(
            {
                "id": answer.id,
                "object": "chat.completion.chunk",
                "created": answer.created,
                "model": answer.model,
                "choices": [],
                "usage": answer.usage,
            }
        )
    yield "data: [DONE]\n\n"


class Server:
    """The HTTP routes of an engine."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = prometheus.CollectorRegistry()
        self.engine = Engine(settings, self.registry)

    def refusal(self, authorization: str | None, body: object) -> JSONResponse | None:
        """Return why a request is not served, None if it is."""
        wanted = self.settings.api_key
        if wanted and authorization != f"Bearer {wanted}":
            return failure(401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key")
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body["messages"]:
            return failure(400, "'messages' must be a list that is not empty.", "invalid_request_error")
        if body.get("model") not in self.settings.models:
            message = f"The model {body.get('model')!r} does not exist."
            return failure(404, message, "invalid_request_error", "model_not_found")
        if self.engine.unlucky():
            return failure(500, "The simulator was told to fail this share of requests.", "server_error")
        return None

    async def chat(self, request: Request) -> Response:
        """Answer a chat completion, streamed or not."""
        try:
            body = await request.json()
        except (ValueError, ClientDisconnect):
            return failure(400, "The body is not valid JSON.", "invalid_request_error")
        refused = self.refusal(request.headers.get("authorization"), body)
        if refused:
            return refused
        answer = self.engine.plan(body)
        if body.get("stream"):
            options = body.get("stream_options") or {}
            events = _stream(self.engine, answer, include_usage=bool(options.get("include_usage")))
            return StreamingResponse(events, media_type="text/event-stream; charset=utf-8")
        text = "".join([word async for word in self.engine.generate(answer)])
        message = {"role": "assistant", "content": text, "refusal": None}
        return JSONResponse(
            {
                "id": answer.id,
                "object": "chat.completion",
                "created": answer.created,
                "model": answer.model,
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}],
                "usage": answer.usage,
            }
        )

    async def models(self, _: Request) -> Response:
        """List the served models."""
        names = self.settings.models
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def version(self, _: Request) -> Response:
        """Say what this is."""
        note = "No model: a simulator for LLM Warden's demo."
        return JSONResponse({"version": VERSION, "simulator": True, "note": note})

    async def health(self, _: Request) -> Response:
        """Answer the probe."""
        return Response()

    async def metrics(self, _: Request) -> Response:
        """Expose the metrics in Prometheus' text format."""
        text = prometheus.generate_latest(self.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def application(settings: Settings) -> Starlette:
    """Return the HTTP application."""
    server = Server(settings)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
            Route("/v1/models", server.models),
            Route("/version", server.version),
            Route("/health", server.health),
            Route("/metrics", server.metrics),
        ]
    )


if __name__ == "__main__":
    loaded = Settings.load(os.environ)
    print(f"This is a simulator of an inference engine: {loaded}", flush=True)
    uvicorn.run(
        application(loaded),
        host="",  # every address, IPv4 and IPv6
        port=int(os.environ.get("PORT", "8000")),
        log_level="warning",
        timeout_keep_alive=75,
    )
