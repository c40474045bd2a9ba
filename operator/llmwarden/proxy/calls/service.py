"""Measured calls: the seam's other side. Understands beside the path, asks the gate, settles once per call.

A call's life: `MeteredService.open` finds the dialect by the target; `admit` (`admission.py`) reads the request and decides; `answered` and
`feed` (`call.py`) understand the answer as it passes; `end` or `fail` settles it (`settle.py`: one record, from which all else is made).
"""

import posixpath
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import unquote

import msgspec

from llmwarden.contracts.ledger import Config, Labels, ServiceConfig
from llmwarden.contracts.sidecar import Limits, Route
from llmwarden.proxy.calls import signals
from llmwarden.proxy.calls.admission import Opened
from llmwarden.proxy.calls.call import Deferred, MeteredCall
from llmwarden.proxy.calls.credentials import Credentials
from llmwarden.proxy.clock import LedgerClock
from llmwarden.proxy.dialects import ordered
from llmwarden.proxy.dialects.base import Dialect, Match, Target
from llmwarden.proxy.http.http1 import BadMessageError, origin_form, united
from llmwarden.proxy.money.busy import Busy
from llmwarden.proxy.money.gate import Gate, Short
from llmwarden.proxy.money.journal import Account, Journal
from llmwarden.proxy.money.prices import PriceBook
from llmwarden.proxy.seam import Header, Request
from llmwarden.proxy.settings import Identity, parse_origin
from llmwarden.proxy.telemetry import spans
from llmwarden.proxy.telemetry.metrics import Metrics

_NO_LABELS: Final = Labels()
_DEFERRED: Final = 1000  # answers under way in the background that are remembered
_ALIASES: Final = 256  # deployments whose model is known
_PATHS: Final = 256  # targets whose meaning is remembered


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


class Shared:
    """What all routes of a proxy have in common.

    `ask` asks the ledger for a price and returns when it has said it, or cannot be waited for; `more` asks it for a lease, and returns at the next grant
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

    def price_generation(self, service: str) -> str:
        """Of which generation prices must be to hold now; "" where there is no configuration."""
        found = self.config.services.get(service) if self.config is not None else None
        return found.price_generation if found is not None else ""


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
        self.server = spans.attributes({"server.address": origin.host, "server.port": origin.port})
        metrics = shared.metrics
        self.in_flight = metrics.in_flight.labels(route.service)
        self._credentials = Credentials(
            route.credential_file, route.backend, metrics.credential_errors.labels(route.service).inc
        )
        self._found: dict[bytes, tuple[Match, Dialect] | None] = {}
        self._told: dict[str, tuple[list[Header], float]] = {}  # rate limits by model, and when they were told
        metrics.before_scrape.append(self.show_limits)
        self.held = 0  # bytes of answers that are kept to be understood at their ends
        self.deferred: dict[str, Deferred] = {}
        self.aliases: dict[str, str] = {}  # the model that answers under a deployment's name
        self.accounts: dict[str, Account] = {}  # by model: the journal's totals that its last call counted in
        self.busy = Busy() if route.mode == "Port" else None

    def open(self, request: Request) -> "MeteredCall | None":
        """A call when the request goes to an endpoint that some dialect knows."""
        config = self.shared.config
        service = config.services.get(self.name) if config is not None else None
        kept = request.kept
        opened = kept.opened if kept is not None else None
        if not isinstance(opened, Opened) or opened.service is not self or opened.config is not service:
            opened = self._open(request, service)
            if opened is None:
                return None
            if kept is not None:
                kept.opened = opened
        self.in_flight.value += 1.0
        return MeteredCall(opened, request)

    def _open(self, request: Request, config: ServiceConfig | None) -> Opened | None:
        """What a request's head says; None, and counted, for one that is not measured."""
        if config is not None and config.state == "Released":
            reason = "released"
        elif request.upgrade:
            reason = "upgrade"
        else:
            found = self._find(request)
            if found is not None and (not found[0].poll or found[0].poll in self.deferred):
                heads = signals.read(request.headers)
                labels = self.shared.labels.of(heads, config.labels if config is not None else _NO_LABELS)
                return Opened(self, found[0], found[1], config, heads, labels)
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
        return united(drop, signals.LABEL_HEADERS), line

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

    def told(self, model: str, limits: list[Header]) -> None:
        """Note what the upstream says of its rate limits; read when somebody asks."""
        model = self.shared.metrics.capped(model)
        known = self._told.get(model)
        if known is not None and len(known[0]) > len(limits):  # what is not said now was said a moment ago
            said = {header[0] for header in limits}
            limits = limits + [header for header in known[0] if header[0] not in said]
        self._told[model] = (limits, time.time())

    def show_limits(self) -> None:
        """Set the gauges of what was told."""
        metrics = self.shared.metrics
        for model, (limits, at) in self._told.items():
            for name, _, value in limits:
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


def decode_config(data: bytes) -> Config:
    """A ledger's configuration. Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=Config)
