"""What a call finds around it: what all routes of a proxy share, what the calls of one route share, what its request's head says."""

from typing import Final

import msgspec

from llmwarden.contracts.ledger import Labels, ServiceConfig
from llmwarden.contracts.sidecar import Limits, Route
from llmwarden.proxy.calls import signals
from llmwarden.proxy.calls.rate_limits import RateLimits
from llmwarden.proxy.dialects.base import Asked, Dialect, Match
from llmwarden.proxy.money.accounts import Accounts
from llmwarden.proxy.money.busy import Busy
from llmwarden.proxy.money.gate import Gate
from llmwarden.proxy.money.journal import Journal
from llmwarden.proxy.money.ledger_view import LedgerView
from llmwarden.proxy.money.tariff import Tariff
from llmwarden.proxy.settings import Identity, parse_origin
from llmwarden.proxy.sinks import Sinks
from llmwarden.proxy.telemetry import otlp
from llmwarden.proxy.telemetry.metrics import Metrics

_BACKGROUND: Final = 1000  # answers under way in the background that are remembered

# The provider's name until the ledger has told it: the same names as in domain/upstream.py; others are the backend's type in lower case.
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
    """What all routes of a proxy share."""

    def __init__(
        self,
        *,
        identity: Identity,
        ledger: LedgerView,
        gate: Gate,
        journal: Journal,
        accounts: Accounts,
        metrics: Metrics,
        sinks: Sinks,
        limits: Limits | None = None,
    ) -> None:
        self.identity = identity
        self.ledger = ledger
        self.gate = gate
        self.journal = journal
        self.accounts = accounts
        self.metrics = metrics
        self.sinks = sinks
        self.limits = limits or Limits()
        self.labels = signals.LabelBook()
        self.retries = signals.Retries()


class Deferred(msgspec.Struct, frozen=True):
    """A call whose answer came before it was done: a later request asks for the result, which has the usage."""

    model: str
    asked: Asked
    labels: Labels


class MeteredRoute:
    """What the calls of one route share."""

    def __init__(self, route: Route, shared: Shared) -> None:
        self.shared = shared
        self.name = route.service
        self.full_name = f"{shared.identity.namespace}/{route.service}"
        self.fallback_provider = _PROVIDERS.get(route.backend, route.backend.lower())
        origin = parse_origin(route.upstream)
        self.server = otlp.attributes({"server.address": origin.host, "server.port": origin.port})
        self.in_flight = shared.metrics.in_flight.labels(route.service)
        self.tariff = Tariff(shared.ledger, route.service)
        self.rate_limits = RateLimits(route.service, shared.metrics)
        self.busy = Busy() if route.mode == "Port" else None
        self.kept_bytes = 0  # of answers that are kept to be read at their ends
        self.deferred: dict[str, Deferred] = {}  # by the id that a later request asks for
        # Of the budgets that held when the pod was made: one without which nothing passes while there is no configuration.
        self.hard = next((budget.key for budget in route.budgets if budget.on_ledger_loss == "Deny"), "")

    def unmeasured(self, reason: str) -> None:
        """Count what passes without being understood."""
        self.shared.metrics.unmeasured.labels(self.name, reason).inc()

    def defer(self, name: str, call: Deferred) -> None:
        """Remember a call whose usage a later answer tells."""
        if len(self.deferred) >= _BACKGROUND:
            del self.deferred[next(iter(self.deferred))]
            self.unmeasured("background")
        self.deferred[name] = call


class Opened:
    """What a request's head says: the same for each request with this head, as long as the configuration is the same. Frozen.

    What each call needs of it is looked up here once.
    """

    __slots__ = (
        "alias",
        "config",
        "dialect",
        "headers",
        "labels",
        "match",
        "operation",
        "provider",
        "route",
        "sample_percent",
        "traceparent",
    )

    def __init__(  # noqa: PLR0917 - its parts
        self,
        route: MeteredRoute,
        match: Match,
        dialect: Dialect,
        config: ServiceConfig | None,
        headers: dict[bytes, bytes],
        labels: Labels,
    ) -> None:
        self.route: Final = route
        self.match: Final = match
        self.dialect: Final = dialect
        self.config: Final = config
        self.headers: Final = headers  # those that are read here (`signals.read`)
        self.labels: Final = labels
        self.traceparent: Final = headers.get(b"traceparent", b"")
        self.alias: Final = match.alias
        self.operation: Final = match.api.operation
        # The name that the ledger gives it.
        self.provider: Final = (config.provider if config is not None else "") or route.fallback_provider
        self.sample_percent: Final = config.sample_percent if config is not None else 100.0
