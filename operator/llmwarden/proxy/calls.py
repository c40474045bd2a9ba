"""Measured calls: the seam's other side. Understands beside the path, asks the gate, settles once per call.

A call's life: `MeteredService.open` finds the dialect by the target; `admit` reads the request and decides; `answered` and `feed`
understand the answer as it passes; `end` or `fail` settles it (`settle.py`: one record, from which all else is made).

Where admission hooks in: `MeteredCall._check` asks the gate, `_decide` acts on its answer (`settle.refuse` notes a refusal), and
`settle.settle` gives back or charges. What bounds a call from above is in `MeteredCall.asked`: output by `max_tokens` x `choices`, unless
`max_tokens` is None; input by `body_bytes` (no tokenizer makes more than one token of a byte; the JSON around a text outweighs the
tokens around a message); and neither holds where `unbounded` says why not. `admit` may return an awaitable: a call can wait for a lease.
"""

import asyncio
import posixpath
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import unquote

import msgspec

from llmwarden import names
from llmwarden.proxy import estimate, settle, signals, spans
from llmwarden.proxy.clock import LedgerClock
from llmwarden.proxy.credentials import Credentials
from llmwarden.proxy.dialects import ordered, shape
from llmwarden.proxy.dialects.base import Answer, Asked, Dialect, Event, Match, Target
from llmwarden.proxy.dialects.shape import Shape
from llmwarden.proxy.framing import SPLITTERS, Piece, Splitter, sse
from llmwarden.proxy.gate import Allowed, Bound, Denied, Gate, Held, NeedsPrice, Outcome, Short
from llmwarden.proxy.http1 import BadMessageError, origin_form
from llmwarden.proxy.journal import Journal, Key
from llmwarden.proxy.prices import Known, PriceBook
from llmwarden.proxy.seam import Decision, Forward, Header, Refusal, Request
from llmwarden.proxy.settings import Identity, Limits, Route, parse_origin
from llmwarden.proxy.telemetry import Metrics
from llmwarden.wire import Config, Labels, ServiceConfig, Tokens

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
_REPLACED: Final = signals.LABEL_HEADERS | {b"accept-encoding", b"traceparent"}
_QUEUE_HEADER: Final = b"x-queue-time"  # TGI, in milliseconds
_TOLD: Final = frozenset(
    {b"content-type", b"content-encoding", _QUEUE_HEADER, *signals.RATE_LIMITS}
)  # what is read of an answer's head
_DEFERRED: Final = 1000  # answers under way in the background that are remembered
_ALIASES: Final = 256  # deployments whose model is known
_STATE: Final = frozenset({b"tracestate"})
_PATHS: Final = 256  # targets whose meaning is remembered
_WHOLE_CAP: Final = 16 * 1024 * 1024  # bytes of an answer that are kept to be understood at its end
_PROGRESS_SECONDS: Final = 1.0  # how often a stream's progress goes into the journal
_LESSONS: Final = 8  # events of a stream in a row by which its shape is guessed before that is given up
_OK: Final = 200
_NO_LABELS: Final = Labels()
_NO_PROMPT: Final = estimate.Prompt()
_LEASE_SECONDS: Final = 2.0  # a call waits for a lease no longer


class Shared:
    """What all routes of a proxy have in common.

    `ask` asks the ledger for a price and returns when it answered or gave up; `more` asks it for a lease, and returns at the next grant
    or after so many seconds. Without a ledger both are None.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        gate: Gate,
        book: PriceBook,
        journal: Journal,
        metrics: Metrics,
        exporter: spans.Exporter | None,
        limits: Limits | None = None,
    ) -> None:
        self.identity = identity
        self.limits = limits or Limits()
        self.clock = LedgerClock()
        self.config: Config | None = None
        self.gate = gate
        self.prices = book
        self.journal = journal
        self.metrics = metrics
        self.exporter = exporter
        self.ask: Callable[[str, str], Awaitable[None]] | None = None
        self.ask_soon: Callable[[str, str], None] | None = None
        self.labels = signals.LabelBook()
        self.retries = signals.Retries()
        self.more: Callable[[Short, float], Awaitable[None]] | None = None


class MeteredService:
    """`seam.Service` of one route. It understands every dialect, its backend's own first: none is a way around a budget."""

    def __init__(self, route: Route, dialects: tuple[Dialect, ...], shared: Shared) -> None:
        self.route = route
        self.dialects = ordered(dialects, route.backend)
        self.shared = shared
        self.name = route.service
        self.full_name = f"{shared.identity.namespace}/{route.service}"
        self.fallback_provider = _PROVIDERS.get(route.backend, route.backend.lower())
        origin = parse_origin(route.upstream)
        self.server: dict[str, spans.Value] = {"server.address": origin.host, "server.port": origin.port}
        metrics = shared.metrics
        self.in_flight = metrics.in_flight.labels(route.service)
        self._credentials = Credentials(
            route.credential_file, route.backend, metrics.credential_errors.labels(route.service).inc
        )
        self._found: dict[bytes, tuple[Match, Dialect] | None] = {}
        self._told: dict[str, tuple[dict[bytes, bytes], float]] = {}  # rate limits by model, and when they were told
        metrics.before_scrape.append(self.show_limits)
        self.deferred: dict[str, Deferred] = {}
        self.aliases: dict[str, str] = {}  # the model that answers under a deployment's name

    def open(self, request: Request) -> "MeteredCall | None":
        """A call when the request goes to an endpoint that some dialect knows."""
        config = self.shared.config
        service = config.services.get(self.name) if config is not None else None
        if service is not None and service.state == "Released":
            reason = "released"
        elif request.upgrade:
            reason = "upgrade"
        else:
            found = self._find(request)
            if found is not None and (not found[0].poll or found[0].poll in self.deferred):
                self.in_flight.inc()
                return MeteredCall(self, request, *found, service)
            reason = "path" if request.method == b"POST" else "method"
        self.spliced(reason)
        return None

    def spliced(self, reason: str) -> None:
        """Count what passes without being understood."""
        self.shared.metrics.unmeasured.labels(self.name, reason).inc()

    def limited(self, reason: str) -> None:
        """Count what a limit of ours turned away."""
        self.shared.metrics.limited.labels(self.name, reason).inc()

    def credentials(self) -> tuple[frozenset[bytes], bytes]:
        """The provider's key, when we hold it; headers that are for us go no further."""
        drop, line = self._credentials.headers()
        return drop | signals.LABEL_HEADERS, line

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """An error of ours, in the backend's own shape, that says whose it is."""
        return self.dialects[0].error_body(status, code, f"LLM Warden: {message}")

    def defer(self, name: str, call: "MeteredCall") -> None:
        """Remember a call whose usage is told by a later answer."""
        if len(self.deferred) >= _DEFERRED:
            del self.deferred[next(iter(self.deferred))]
            self.spliced("background")
        self.deferred[name] = Deferred(call.model, call.asked, call.labels)

    def alias(self, deployment: str, model: str) -> None:
        """Remember which model answers under a name."""
        if deployment in self.aliases or len(self.aliases) < _ALIASES:
            self.aliases[deployment] = model

    def told(self, model: str, limits: dict[bytes, bytes]) -> None:
        """Note what the upstream says of its rate limits; read when somebody asks."""
        model = self.shared.metrics.capped(model)
        known = self._told.get(model)
        if known is None:
            self._told[model] = (limits, time.time())
        else:
            known[0].update(limits)
            self._told[model] = (known[0], time.time())

    def show_limits(self) -> None:
        """Set the gauges of what was told."""
        metrics = self.shared.metrics
        for model, (limits, at) in self._told.items():
            for name, value in limits.items():
                limit = signals.RATE_LIMITS[name]
                number = signals.limit_value(limit, value, at)
                if number is not None:
                    family = metrics.limit_reset if limit.reset else metrics.limit_remaining
                    family.labels(self.name, model, limit.what).set(number)
        self._told.clear()

    def _find(self, request: Request) -> tuple[Match, Dialect] | None:
        post = request.method == b"POST"
        if post:
            try:
                return self._found[request.target]
            except KeyError:
                pass
        target = Target(
            request.method.decode("latin-1"),
            normalise(request.target),
            request.target.partition(b"?")[2].decode("latin-1"),
            self.route.backend,
        )
        found = None
        for dialect in self.dialects:
            match = dialect.match(target)
            if match is not None:
                found = match, dialect
                break
        if post and len(self._found) < _PATHS:
            self._found[request.target] = found
        return found


def normalise(target: bytes) -> str:
    """The path as servers read it: decoded, without doubled slashes, dots and a slash at its end. No spelling walks around a budget."""
    try:
        path = origin_form(target).partition(b"?")[0].partition(b"#")[0]
    except BadMessageError:
        return "/"
    return posixpath.normpath("/" + unquote(path.decode("latin-1")).lstrip("/"))


class Deferred(msgspec.Struct, frozen=True):
    """A call that was answered before it was done."""

    model: str
    asked: Asked
    labels: Labels


class MeteredCall:
    """`seam.Call`: one measured request. The configuration is that of its beginning, whatever comes meanwhile."""

    __slots__ = (
        "_heads",
        "_hides",
        "_lessons",
        "_opaque",
        "_progress_at",
        "_request",
        "_settled",
        "_shape",
        "_splitter",
        "_sse",
        "_unread",
        "_usage_added",
        "_whole",
        "_whole_size",
        "answer",
        "asked",
        "body_bytes",
        "body_key",
        "budget",
        "config",
        "dialect",
        "held",
        "labels",
        "match",
        "model",
        "number",
        "output_estimate",
        "prompt",
        "retry",
        "service",
        "started",
        "status",
        "trace",
    )

    def __init__(
        self, service: MeteredService, request: Request, match: Match, dialect: Dialect, config: ServiceConfig | None
    ) -> None:
        self.service = service
        self.match = match
        self.dialect = dialect
        self.config = config
        self.started = request.started
        self._heads = heads = signals.read(request.headers)
        self.trace = spans.begin(heads.get(b"traceparent", b""), config.sample_percent if config is not None else 100.0)
        self.labels = service.shared.labels.of(heads, config.labels if config is not None else _NO_LABELS)
        self.retry = ""
        self.asked = Asked()
        self.answer = Answer()
        self.body_bytes = 0
        self.body_key = 0
        self.prompt = _NO_PROMPT
        self.output_estimate: int | None = None  # of a whole answer without usage
        self.model = ""  # as sent upstream
        self.budget = ""  # that made us change the model, or refused
        self.status = 0
        self.number = 0  # in the journal, while it streams
        self.held: Held = ()  # of leases
        self._request = request
        self._opaque = False
        self._usage_added = False
        self._hides = False
        self._unread = False  # the answer is compressed, or too large
        self._splitter: Splitter | None = None
        self._sse: sse.Splitter | None = None  # the same, where it is one
        self._shape: Shape | None = None  # of the stream's events, once one of them showed it
        self._lessons = _LESSONS
        self._whole: list[bytes] = []
        self._whole_size = 0
        self._progress_at = 0.0
        self._settled = False

    # seam.Call

    def admit(self, body: bytes | None) -> Decision | Awaitable[Decision]:
        """Read the request, resolve its price, ask the gate; waits only where a budget needs a price or a lease that is not there."""
        if self.match.poll:
            return self._poll()
        asked = self.match.api.read_request(body, self.match) if body is not None else None
        self.body_bytes = len(body) if body is not None else self._request.length or 0
        self.body_key = signals.body_key(self._request.target, body or b"")
        self.retry = self.service.shared.retries.seen(self._heads, self.body_key, self.started)
        if asked is None:
            self._opaque = True
            self.model = self.asked.model = self.match.model
            self.asked.unbounded = "unreadable"
        else:
            self.asked = asked
            self.model = asked.model
            self.prompt = estimate.prompt(body or b"", asked.input_bytes)
        self.price()  # asks for it when it is not there: by the call's end it is
        outcome = self._check(asked=False)
        if isinstance(outcome, Allowed | Denied):
            return self._decide(outcome, body)
        return self._admit_later(outcome, body)

    async def _admit_later(self, outcome: NeedsPrice | Short, body: bytes | None) -> Decision:
        """Ask the ledger for what is missing, and check again; a lease is waited for until a deadline."""
        shared = self.service.shared
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LEASE_SECONDS
        asked = False
        found: Outcome = outcome
        while True:
            if isinstance(found, NeedsPrice):
                asked = True
                if shared.ask is not None:
                    await shared.ask(self.service.name, found.model)
                    deadline = loop.time() + _LEASE_SECONDS
            elif isinstance(found, Short):
                if shared.more is not None:
                    await shared.more(found, max(deadline - loop.time(), 0.0))
            else:
                return self._decide(found, body)
            last = shared.more is None or loop.time() >= deadline
            found = self._check(asked=asked, last=last)

    def _poll(self) -> Decision:
        """A question for an answer that was admitted when it was begun."""
        begun = self.service.deferred.get(self.match.poll)
        if begun is not None:
            self.model, self.asked, self.labels = begun.model, begun.asked, begun.labels
        return Forward()

    def head(self, request: Request) -> tuple[frozenset[bytes], list[bytes]]:  # noqa: ARG002 - the seam's signature
        """Ask for an answer that can be read, and continue the trace."""
        gone = _REPLACED if self.trace.parent_id else _REPLACED | _STATE  # a state without its trace means nothing
        return gone, [b"Accept-Encoding: identity\r\ntraceparent: ", self.trace.header(), b"\r\n"]

    def answered(self, status: int, headers: list[Header]) -> bool:  # noqa: C901 - one pass over the headers
        """Note status and kind of the answer."""
        self.status = status
        if self.match.head is not None:
            self.match.head(self.answer, headers)
        framing = None
        limits: dict[bytes, bytes] = {}
        for low, _, value in headers:
            if low not in _TOLD:
                continue
            if low == b"content-type":
                framing = self.match.api.framing(value.lower(), self.asked)
            elif low == b"content-encoding":
                self._unread = value.strip().lower() not in {b"", b"identity"}
            elif low != _QUEUE_HEADER:
                limits[low] = value
            elif value.isdigit():
                self.answer.queue_seconds = int(value[:9]) / 1000
        if limits:
            self.service.told(self.model, limits)
        if framing is not None and not self._unread:
            self._splitter = SPLITTERS[framing](self.service.shared.limits.event_bytes)
            self._sse = self._splitter if isinstance(self._splitter, sse.Splitter) else None
            if status == _OK and not self.match.poll:
                self._hides = self._usage_added
                read = settle.rough_input(self)
                known = self.price()
                self.number = self.service.shared.journal.open(
                    self.key(self.row_model(), read, "", known.price_id if known is not None else None),
                    Tokens(input=read),
                )
                self._progress_at = time.perf_counter() + _PROGRESS_SECONDS
        return self._hides

    def feed(self, data: bytes) -> bytes:
        """Understand a piece; hold back only usage that the client did not ask for."""
        splitter = self._splitter
        if splitter is None:
            self._keep(data)
            return data
        now = time.perf_counter()
        answer = self.answer
        out: list[bytes] = []
        rest = data
        if self._shape is not None and self._sse is not None and not self._sse.held:
            count, size, end, kept = self._shape.take(data)
            if count:
                answer.texts(count, size, now)
                out.append(kept)
                rest = data[end:]
                self._lessons = _LESSONS
        if rest:
            self._understand(splitter.feed(rest), now, out)
        if answer.done:
            self._settle("", None)
        elif now >= self._progress_at and self.number:
            self._progress_at = now + _PROGRESS_SECONDS
            self.service.shared.journal.progress(self.number, answer.pieces)
        return b"".join(out) if self._hides else data

    def _understand(self, events: list[Piece], now: float, out: list[bytes]) -> None:
        """Read events one by one; `out` gets what goes on of them."""
        answer = self.answer
        api = self.match.api
        hides = self._hides
        for raw, payload in events:
            if self._shape is not None:
                count, size, end, kept = self._shape.take(raw)
                if count and end == len(raw):
                    answer.texts(count, size, now)
                    out.append(kept)
                    continue
            kind = api.event(answer, payload, now) if payload is not None else Event.KEEP
            kept = raw
            if hides and kind is not Event.KEEP:
                kept = api.strip(raw) if kind is Event.STRIP else b""
            out.append(kept)
            if answer.text and self._lessons and self._sse is not None:
                self._lessons -= 1
                self._shape = shape.learn(raw, answer.text, kept, answer.text_name)

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

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """An error of ours, in the dialect's shape, that says whose it is."""
        return self.dialect.error_body(status, code, f"LLM Warden: {message}")

    def _keep(self, data: bytes) -> None:
        """Keep an answer that is read at its end."""
        if self._unread:
            return
        self._whole_size += len(data)
        if self._whole_size > _WHOLE_CAP:
            self._unread = True
            self._whole.clear()
        else:
            self._whole.append(data)

    # Prices, and by which model.

    def provider(self) -> str:
        """The provider as the ledger calls it."""
        return (self.config.provider if self.config is not None else "") or self.service.fallback_provider

    def row_model(self) -> str:
        """The model that is charged: the one that was asked for, as the price was resolved by it.

        A deployment's name is no model's: unless it has a price of its own, what answers under it is charged.
        """
        if self.match.alias and not self._has_price(self.model):
            return self.answer.model or self.service.aliases.get(self.model) or self.model
        return self.model or self.answer.model

    def key(self, model: str, tokens_in: int, tier: str, price_id: str | None) -> Key:
        """What the call counts under, now."""
        shared = self.service.shared
        bucket = int(shared.clock()) // names.BUCKET_SECONDS * names.BUCKET_SECONDS
        bounds = shared.config.context_bounds if shared.config is not None else ()
        above = bisect_right(bounds, tokens_in)
        return Key(
            self.service.name,
            self.provider(),
            model,
            price_id,
            bucket,
            bounds[above - 1] if above else 0,
            tier,
        )

    def price(self) -> Known | None:
        """The price, asked for in the background where it is not known or not fresh."""
        if not self.model:
            return None
        if self.match.alias:
            self._known(self.model)
        return self._known(self.row_model())

    def _known(self, model: str) -> Known | None:
        known = self._fresh(model)
        if known is None:
            shared = self.service.shared
            if shared.ask_soon is not None:
                shared.ask_soon(self.service.name, model)
            known = shared.prices.last(self.service.name, model)
        return known

    def _has_price(self, model: str) -> bool:
        known = self._fresh(model) or self.service.shared.prices.last(self.service.name, model)
        return known is not None and known.price_id is not None

    def _priced_as(self, model: str) -> str:
        """The model by whose price another one is judged beforehand: what answers under a deployment's name, once it is known."""
        if self.match.alias and not self._has_price(model):
            return self.service.aliases.get(model, model)
        return model

    def _fresh(self, model: str) -> Known | None:
        generation = self.config.price_generation if self.config is not None else ""
        return self.service.shared.prices.get(self.service.name, model, generation, self.service.shared.clock())

    def _priced(self, model: str) -> bool | None:
        """Whether a model has a price. That it had none is not believed once prices have changed."""
        model = self._priced_as(model)
        known = self._fresh(model)
        if known is not None:
            return known.price_id is not None
        last = self.service.shared.prices.last(self.service.name, model)
        return True if last is not None and last.price_id is not None else None

    # Deciding.

    def _bound(self, model: str) -> Bound:
        """What the call can use at most, by this model; see the module."""
        shared, asked = self.service.shared, self.asked
        known = shared.prices.last(self.service.name, self._priced_as(model))
        window = known.window if known is not None else 0
        tokens_in, tokens_out = self.body_bytes, 0
        if asked.unbounded:
            tokens_in = _capped(shared.limits.unbounded_input_tokens, window)
            if not tokens_in:
                return Bound(None, 0, unbounded=asked.unbounded)
        if asked.max_tokens is not None:
            tokens_out = max(asked.max_tokens, 0) * asked.choices
        elif self.match.api.operation != "embeddings":
            tokens_out = _capped(shared.limits.unbounded_output_tokens, window) * asked.choices
            if not tokens_out:
                return Bound(None, 0, unbounded="no max_tokens")
        picodollars = known.at_most(tokens_in, tokens_out) if known is not None else None
        return Bound(picodollars, tokens_in + tokens_out, capped=bool(asked.unbounded) or asked.max_tokens is None)

    def _check(self, *, asked: bool, last: bool = False) -> Outcome:
        service = self.service
        gate = service.shared.gate
        outcome = gate.check(
            self.config,
            service.full_name,
            self.model,
            priced=self._priced,
            asked=asked,
            now=service.shared.clock(),
            bound=self._bound,
            last=last,
        )
        if self._opaque and isinstance(outcome, Allowed) and outcome.fallback:
            gate.charge(None, 0, 0, outcome.held)
            return Denied(
                outcome.budget,
                "insufficient_quota",
                "LLM Warden: the budget is used up, and the request is too large or encoded: its model cannot be changed to the fallback",
            )
        return outcome

    def _decide(self, outcome: Allowed | Denied, body: bytes | None) -> Decision:
        if isinstance(outcome, Denied):
            return self._refuse(outcome)
        self.held = outcome.held
        headers: tuple[tuple[bytes, bytes], ...] = ()
        target = b""
        api = self.match.api
        if outcome.fallback is not None:
            self.model = outcome.fallback
            self.budget = outcome.budget
            self.price()
            headers = ((b"x-llmwarden-fallback", outcome.fallback.encode()),)
            target = api.write_target(self._request.target, outcome.fallback)
        if body is None or self._opaque:
            return Forward(body, headers)
        asked = self.asked
        self._usage_added = asked.stream and not asked.wants_usage and self.match.takes_usage
        if self._usage_added or outcome.fallback is not None:
            body = api.write_request(body, asked, model=outcome.fallback, usage=self._usage_added)
        return Forward(body, headers, target)

    def _refuse(self, denied: Denied) -> Refusal:
        self._settled = True
        self.service.in_flight.dec()
        self.budget = denied.budget
        refusal = self.dialect.refusal(
            denied.code, denied.message, budget=denied.budget, retry_after=denied.retry_after
        )
        settle.refuse(self, denied.code, refusal.status)
        return refusal

    # The end.

    def _last_event(self) -> bytes:
        """What has not made a whole event: understood all the same, and passed on unless it is ours alone."""
        splitter = self._splitter
        if splitter is None:
            return b""
        rest, payload = splitter.rest()
        kind = Event.KEEP
        if payload is not None and not self._settled:
            kind = self.match.api.event(self.answer, payload, time.perf_counter())
        return rest if self._hides and kind is not Event.WITHHOLD else b""

    def _settle(self, error: str, status: int | None) -> None:
        if self._settled:
            return
        self._settled = True
        self.service.in_flight.dec()
        answer = self.answer
        if self._whole and not error:
            body = b"".join(self._whole)
            self._whole.clear()
            self.match.api.whole(answer, body)
            if answer.usage is None and not answer.error:
                self.output_estimate = estimate.prompt(body, answer.content_bytes).tokens()
        if self.match.alias and answer.model:
            self.service.alias(self.model, answer.model)
        deferred = self.service.deferred
        if self.match.poll:
            if answer.usage is None or answer.deferred or deferred.pop(self.match.poll, None) is None:
                return  # not done yet, or charged by another question
        elif answer.deferred and answer.usage is None:
            self.service.defer(answer.deferred, self)
        settle.settle(self, error, status)


def _capped(cap: int, window: int) -> int:
    """What is reserved where a call says nothing: the model's window, where it is known and smaller than the cap."""
    return min(cap, window) if window else cap


def decode_config(data: bytes) -> Config:
    """A ledger's configuration. Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=Config)
