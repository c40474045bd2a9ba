"""Measured calls: the seam's other side. Understands beside the path, asks the gate, settles once per call."""

import posixpath
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import unquote

import msgspec

from llmwarden import names
from llmwarden.proxy import prices, spans
from llmwarden.proxy.credentials import Credentials
from llmwarden.proxy.dialects.base import Answer, Asked, Dialect, Event
from llmwarden.proxy.gate import Allowed, Denied, Gate, NeedsPrice
from llmwarden.proxy.http1 import BadMessageError, origin_form
from llmwarden.proxy.journal import Entry, Journal
from llmwarden.proxy.prices import Known, PriceBook
from llmwarden.proxy.seam import Decision, Forward, Header, Refusal, Request
from llmwarden.proxy.settings import Identity, Route, parse_origin
from llmwarden.proxy.sse import Splitter, payload
from llmwarden.proxy.telemetry import Finished, Metrics
from llmwarden.wire import Config, ServiceConfig, Tokens

# Backends that are known to take `stream_options.include_usage`; others might refuse a field they do not know.
_GIVES_USAGE: Final = frozenset(
    {"OpenAI", "AzureOpenAI", "VLLM", "SGLang", "NIM", "TensorRTLLM", "LlamaCpp", "Ollama", "TGI"}
)
# Until the ledger has said how a service's provider is called: the same names (domain/upstream.py); others are the type in lower case.
_PROVIDERS: Final = {
    "OpenAI": "openai",
    "AzureOpenAI": "azure.ai.openai",
    "Anthropic": "anthropic",
    "Bedrock": "aws.bedrock",
    "Gemini": "gcp.gemini",
    "NIM": "nvidia.nim",
    "TensorRTLLM": "tensorrt_llm",
    "LlamaCpp": "llama_cpp",
    "OpenAICompatible": "openai_compatible",
}
_REPLACED: Final = frozenset({b"accept-encoding", b"traceparent"})
_PATHS: Final = 256  # targets whose meaning is remembered
_WHOLE_CAP: Final = 16 * 1024 * 1024  # bytes of an answer that are kept to be understood at its end
_PROGRESS_SECONDS: Final = 1.0  # how often a stream's progress goes into the journal
_BYTES_PER_TOKEN: Final = 4
_ERROR: Final = 400  # HTTP statuses from here on are errors
_OK: Final = 200
_GONE: Final = 499  # nginx's number for a client that went away
_NANO: Final = 1e9


class Shared:
    """What all routes of a proxy have in common. `ask` asks the ledger for a price and returns when it answered or gave up."""

    def __init__(
        self,
        *,
        identity: Identity,
        gate: Gate,
        book: PriceBook,
        journal: Journal,
        metrics: Metrics,
        exporter: spans.Exporter | None,
    ) -> None:
        self.identity = identity
        self.config: Config | None = None
        self.gate = gate
        self.prices = book
        self.journal = journal
        self.metrics = metrics
        self.exporter = exporter
        self.ask: Callable[[str, str], Awaitable[None]] | None = None
        self.ask_soon: Callable[[str, str], None] | None = None


class MeteredService:
    """`seam.Service` of one route."""

    def __init__(self, route: Route, dialect: Dialect, shared: Shared) -> None:
        self.route = route
        self.dialect = dialect
        self.shared = shared
        self.name = route.service
        self.full_name = f"{shared.identity.namespace}/{route.service}"
        self.gives_usage = route.backend in _GIVES_USAGE
        self.fallback_provider = _PROVIDERS.get(route.backend, route.backend.lower())
        origin = parse_origin(route.upstream)
        self.server: dict[str, spans.Value] = {"server.address": origin.host, "server.port": origin.port}
        metrics = shared.metrics
        self.in_flight = metrics.in_flight.labels(route.service)
        self._credentials = Credentials(
            route.credential_file, route.backend, metrics.credential_errors.labels(route.service).inc
        )
        self._operations: dict[bytes, str | None] = {}

    def open(self, request: Request) -> "MeteredCall | None":
        """A call when it is a POST to one of the dialect's paths."""
        config = self.shared.config
        service = config.services.get(self.name) if config is not None else None
        if service is not None and service.state == "Released":
            reason = "released"
        elif request.upgrade:
            reason = "upgrade"
        elif request.method != b"POST":
            reason = "method"
        else:
            operation = self._operation(request.target)
            if operation is not None:
                self.in_flight.inc()
                return MeteredCall(self, request, operation, service)
            reason = "path"
        self.spliced(reason)
        return None

    def spliced(self, reason: str) -> None:
        """Count what passes without being understood."""
        self.shared.metrics.unmeasured.labels(self.name, reason).inc()

    def credentials(self) -> tuple[frozenset[bytes], bytes]:
        """The provider's key, when we hold it."""
        return self._credentials.headers()

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """An error of ours, in the dialect's shape, that says whose it is."""
        return self.dialect.error_body(status, code, f"LLM Warden: {message}")

    def _operation(self, target: bytes) -> str | None:
        try:
            return self._operations[target]
        except KeyError:
            pass
        operation = self.dialect.operation(normalise(target))
        if len(self._operations) < _PATHS:
            self._operations[target] = operation
        return operation


def normalise(target: bytes) -> str:
    """The path as servers read it: decoded, without doubled slashes, dots and a slash at its end. No spelling walks around a budget."""
    try:
        path = origin_form(target).partition(b"?")[0].partition(b"#")[0]
    except BadMessageError:
        return "/"
    return posixpath.normpath("/" + unquote(path.decode("latin-1")).lstrip("/")).lower()


class MeteredCall:
    """`seam.Call`: one measured request. The configuration is that of its beginning, whatever comes meanwhile."""

    __slots__ = (
        "_answer",
        "_asked",
        "_budget",
        "_config",
        "_hides",
        "_model",
        "_number",
        "_opaque",
        "_operation",
        "_progress_at",
        "_service",
        "_settled",
        "_splitter",
        "_started",
        "_status",
        "_streams",
        "_trace",
        "_unread",
        "_usage_added",
        "_whole",
        "_whole_size",
    )

    def __init__(self, service: MeteredService, request: Request, operation: str, config: ServiceConfig | None) -> None:
        self._service = service
        self._config = config
        self._operation = operation
        self._started = request.started
        traceparent = b""
        for low, _, value in request.headers:
            if low == b"traceparent":
                traceparent = value
        self._trace = spans.begin(traceparent, config.sample_percent if config is not None else 100.0)
        self._asked = Asked()
        self._answer = Answer()
        self._opaque = False
        self._model = ""  # as sent upstream
        self._budget = ""  # that made us change the model
        self._usage_added = False
        self._status = 0
        self._streams = False
        self._hides = False
        self._unread = False  # the answer is compressed, or too large
        self._splitter = Splitter()
        self._whole: list[bytes] = []
        self._whole_size = 0
        self._number = 0
        self._progress_at = 0.0
        self._settled = False

    # seam.Call

    def admit(self, body: bytes | None) -> Decision | Awaitable[Decision]:
        """Read the request, resolve its price, ask the gate; waits only where a budget refuses unpriced models."""
        asked = self._service.dialect.read_request(body) if body is not None else None
        if asked is None:
            self._opaque = True
        else:
            self._asked = asked
            self._model = asked.model
        self._price()  # asks for it when it is not there: by the call's end it is
        outcome = self._check(asked=False)
        if isinstance(outcome, NeedsPrice):
            return self._admit_priced(outcome.model, body)
        return self._decide(outcome, body)

    async def _admit_priced(self, model: str, body: bytes | None) -> Decision:
        shared = self._service.shared
        if shared.ask is not None:
            await shared.ask(self._service.name, model)
        outcome = self._check(asked=True)
        return self._decide(outcome if not isinstance(outcome, NeedsPrice) else Allowed(), body)

    def head(self, request: Request) -> tuple[frozenset[bytes], list[bytes]]:  # noqa: ARG002 - the seam's signature
        """Ask for an answer that can be read, and continue the trace."""
        return _REPLACED, [b"Accept-Encoding: identity\r\ntraceparent: ", self._trace.header(), b"\r\n"]

    def answered(self, status: int, headers: list[Header]) -> bool:
        """Note status and kind of the answer."""
        self._status = status
        for low, _, value in headers:
            if low == b"content-type":
                self._streams = value.lower().startswith(b"text/event-stream")
            elif low == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
                self._unread = True
        if self._streams and status == _OK and not self._unread:
            self._hides = self._usage_added
            known = self._price()
            self._number = self._service.shared.journal.open(
                self._service.name,
                self._provider(),
                self._row_model(),
                known.price_id if known is not None else None,
                Tokens(input=self._asked.input_estimate),
            )
            self._progress_at = time.perf_counter() + _PROGRESS_SECONDS
        return self._hides

    def feed(self, data: bytes) -> bytes:
        """Understand a piece; hold back only usage that the client did not ask for."""
        if self._unread:
            return data
        if not self._streams:
            self._whole_size += len(data)
            if self._whole_size > _WHOLE_CAP:
                self._unread = True
                self._whole.clear()
            else:
                self._whole.append(data)
            return data
        now = time.perf_counter()
        out: list[bytes] = []
        answer = self._answer
        dialect = self._service.dialect
        for event, content in self._splitter.feed(data):
            kind = dialect.event(answer, content, now) if content is not None else Event.KEEP
            if self._hides:
                if kind is Event.KEEP:
                    out.append(event)
                elif kind is Event.STRIP:
                    out.append(dialect.strip(event))
        if answer.done:
            self._settle("", None)
        elif now >= self._progress_at and self._number:
            self._progress_at = now + _PROGRESS_SECONDS
            self._service.shared.journal.progress(self._number, answer.pieces)
        return b"".join(out) if self._hides else data

    def end(self) -> bytes:
        """Settle the call."""
        held = self._last_event()
        self._settle("", None)
        return held

    def fail(self, error: str, status: int | None = None) -> bytes:
        """Settle a call that broke: charged for what came."""
        held = self._last_event()
        self._settle(error, status)
        return held

    # Deciding.

    def _fresh(self, model: str) -> Known | None:
        generation = self._config.price_generation if self._config is not None else ""
        return self._service.shared.prices.get(self._service.name, model, generation, time.time())

    def _price(self) -> Known | None:
        """The price, asked for in the background where it is not known or not fresh."""
        if not self._model:
            return None
        known = self._fresh(self._model)
        if known is None:
            shared = self._service.shared
            if shared.ask_soon is not None:
                shared.ask_soon(self._service.name, self._model)
            known = shared.prices.last(self._service.name, self._model)
        return known

    def _priced(self, model: str) -> bool | None:
        """Whether a model has a price. That it had none is not believed once prices have changed."""
        known = self._fresh(model)
        if known is not None:
            return known.price_id is not None
        last = self._service.shared.prices.last(self._service.name, model)
        return True if last is not None and last.price_id is not None else None

    def _check(self, *, asked: bool) -> Allowed | Denied | NeedsPrice:
        service = self._service
        outcome = service.shared.gate.check(
            self._config, service.full_name, self._model, priced=self._priced, asked=asked, now=time.time()
        )
        if self._opaque and isinstance(outcome, Allowed) and outcome.fallback:
            return Denied(
                outcome.budget,
                "insufficient_quota",
                "LLM Warden: the budget is used up, and the request is too large or encoded: its model cannot be changed to the fallback",
            )
        return outcome

    def _decide(self, outcome: Allowed | Denied, body: bytes | None) -> Decision:
        if isinstance(outcome, Denied):
            return self._refuse(outcome)
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if outcome.fallback is not None:
            self._model = outcome.fallback
            self._budget = outcome.budget
            self._price()
            headers = ((b"x-llmwarden-fallback", outcome.fallback.encode()),)
        if body is None or self._opaque:
            return Forward(body, headers)
        asked = self._asked
        self._usage_added = asked.stream and not asked.wants_usage and self._service.gives_usage
        if self._usage_added or outcome.fallback is not None:
            body = self._service.dialect.write_request(body, asked, model=outcome.fallback, usage=self._usage_added)
        return Forward(body, headers)

    def _refuse(self, denied: Denied) -> Refusal:
        self._settled = True
        service = self._service
        metrics = service.shared.metrics
        service.in_flight.dec()
        metrics.refused.labels(service.name, denied.budget).inc()
        metrics.series(service.name, self._provider(), self._operation, self._asked.model, "").refused(denied.code)
        self._budget = denied.budget
        self._status = 429
        self._emit(Finished(status=429, error=denied.code, duration=time.perf_counter() - self._started))
        return service.dialect.refusal(
            denied.code, denied.message, budget=denied.budget, retry_after=denied.retry_after
        )

    # Settling.

    def _last_event(self) -> bytes:
        """What has not made a whole event: understood all the same, and passed on unless it is ours alone."""
        if not self._streams or self._unread:
            return b""
        rest = self._splitter.rest()
        content = payload(rest) if rest else None
        kind = Event.KEEP
        if content is not None and not self._settled:
            kind = self._service.dialect.event(self._answer, content, time.perf_counter())
        return rest if self._hides and kind is not Event.WITHHOLD else b""

    def _settle(self, error: str, status: int | None) -> None:
        if self._settled:
            return
        self._settled = True
        service, answer = self._service, self._answer
        shared = service.shared
        service.in_flight.dec()
        if self._whole and not error:
            service.dialect.whole(answer, b"".join(self._whole))
            self._whole.clear()
        status = status or self._status or _GONE
        kind = error or (str(status) if status >= _ERROR else answer.error)
        tokens, estimated = self._tokens(status, kind)
        known = self._price()
        price = known.picodollars if known is not None else None
        paid = prices.cost(price, tokens) if price is not None and (tokens.input or tokens.output) else None
        if paid is None and not (tokens.input or tokens.output):
            paid = 0
        bucket = int(time.time()) // names.BUCKET_SECONDS * names.BUCKET_SECONDS
        model = self._row_model()
        if not (tokens.input or tokens.output):
            model = shared.metrics.capped(model)  # a name that nothing was made of may be anything
        shared.journal.add(
            Entry(
                (service.name, self._provider(), model, known.price_id if known is not None else None, bucket),
                tokens,
                error=bool(kind) and kind != "client_disconnected",
                estimated=estimated,
            ),
            self._number,
        )
        if self._config is not None:
            shared.gate.charge(self._config, paid or 0, tokens.input + tokens.output)
        if estimated:
            shared.metrics.estimated.labels(service.name).inc()
        if answer.malformed:
            shared.metrics.malformed.labels(service.name).inc(answer.malformed)
        finished = Finished(
            input=tokens.input,
            cached_input=tokens.cached_input,
            cache_write=tokens.cache_write,
            output=tokens.output,
            reasoning=tokens.reasoning,
            status=status,
            error=kind,
            duration=time.perf_counter() - self._started,
            first_token=answer.first_content - self._started if answer.pieces else None,
            per_token=self._per_token(tokens),
            picodollars=paid,
            trace_id=self._trace.trace_id if self._trace.sampled else "",
        )
        shared.metrics.series(
            service.name, self._provider(), self._operation, self._asked.model or answer.model, answer.model
        ).record(finished)
        self._emit(finished)

    def _tokens(self, status: int, error: str) -> tuple[Tokens, bool]:
        """What to charge, and whether it is an estimate: only for what was produced, or answered without usage."""
        answer = self._answer
        if answer.usage is not None:
            return answer.usage, False
        if status >= _ERROR or (error and not answer.pieces):
            return Tokens(), False
        output = answer.pieces or -(-answer.content_bytes // _BYTES_PER_TOKEN)
        return Tokens(input=self._asked.input_estimate, output=output), True

    def _per_token(self, tokens: Tokens) -> float | None:
        answer = self._answer
        if answer.pieces < 2 or tokens.output < 2:  # noqa: PLR2004 - an interval has two ends
            return None
        return (answer.last_content - answer.first_content) / (tokens.output - 1)

    def _provider(self) -> str:
        return (self._config.provider if self._config is not None else "") or self._service.fallback_provider

    def _row_model(self) -> str:
        """The model that is charged: the one that was asked for, as the price was resolved by it."""
        return self._model or self._answer.model

    def _emit(self, call: Finished) -> None:  # noqa: C901 - a flat list of attributes
        exporter = self._service.shared.exporter
        if exporter is None or not self._trace.sampled:
            return
        asked, answer = self._asked, self._answer
        attributes: dict[str, spans.Value] = {
            "gen_ai.operation.name": self._operation,
            "gen_ai.provider.name": self._provider(),
            "gen_ai.request.model": asked.model,
            "gen_ai.request.stream": asked.stream,
            **self._service.server,
            "http.response.status_code": call.status,
        }
        if asked.max_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = asked.max_tokens
        if asked.temperature is not None:
            attributes["gen_ai.request.temperature"] = asked.temperature
        if answer.model:
            attributes["gen_ai.response.model"] = answer.model
        if answer.id:
            attributes["gen_ai.response.id"] = answer.id
        if answer.finish_reasons:
            attributes["gen_ai.response.finish_reasons"] = answer.finish_reasons
        if call.input or call.output:
            attributes["gen_ai.usage.input_tokens"] = call.input
            attributes["gen_ai.usage.output_tokens"] = call.output
            attributes["gen_ai.usage.cache_read.input_tokens"] = call.cached_input
            attributes["gen_ai.usage.cache_creation.input_tokens"] = call.cache_write
            attributes["gen_ai.usage.reasoning.output_tokens"] = call.reasoning
        if call.first_token is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = call.first_token
        if call.picodollars is not None:
            attributes["gen_ai.usage.cost.amount"] = call.picodollars / names.PICODOLLARS
            attributes["gen_ai.usage.cost.currency"] = "USD"
        if call.error:
            attributes["error.type"] = call.error
        if self._budget:
            attributes["llmwarden.budget"] = self._budget
        end = time.time_ns()
        exporter.offer(
            spans.Span(
                service=self._service.name,
                name=f"{self._operation} {asked.model}".rstrip(),
                trace=self._trace,
                start=end - int(call.duration * _NANO),
                end=end,
                attributes=attributes,
                error=call.error,
            )
        )


def decode_config(data: bytes) -> Config:
    """A ledger's configuration. Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=Config)
