"""What a CustomResourceDefinition says besides its schema: names, scope, and the columns of `kubectl get`."""

from dataclasses import dataclass
from typing import Final, Literal

from llmwarden.api.v1alpha1 import ClusterLLMBudget, LLMBudget, LLMService, ModelPrice, ProviderAccount
from llmwarden.names import GROUP

Scope = Literal["Namespaced", "Cluster"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`; priority 1 shows with `-o wide` only."""

    name: str
    path: str
    description: str
    type: Literal["string", "integer", "date"] = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind."""

    model: type[LLMService | LLMBudget | ClusterLLMBudget | ModelPrice | ProviderAccount]
    plural: str
    short: tuple[str, ...]
    scope: Scope
    columns: tuple[Column, ...]

    @property
    def kind(self) -> str:
        """Its kind."""
        return self.model.__name__

    @property
    def singular(self) -> str:
        """Its singular name."""
        return self.kind.lower()

    @property
    def name(self) -> str:
        """The name of its CustomResourceDefinition."""
        return f"{self.plural}.{GROUP}"


_READY: Final = '.status.conditions[?(@.type=="Ready")].status'
_AGE: Final = Column("AGE", ".metadata.creationTimestamp", "How long it has been there.", "date")
_SHARED: Final = (
    Column("LIMIT", ".status.summary.limit", "How much may be spent in a window."),
    Column("WINDOW", ".spec.window.calendar", "The calendar period over which it is counted."),
    Column("ROLLING", ".spec.window.rolling", "The rolling span over which it is counted.", priority=1),
    Column("SPENT", ".status.summary.spent", "What is spent in the present window."),
    Column("USED", ".status.summary.used", "Share of the limit that is spent."),
    Column("STATE", ".status.state", "Open, Warned or Exceeded."),
    Column("ACTION", ".spec.onExceeded.action", "What happens once it is exceeded."),
    Column("SERVICES", ".status.services", "How many services share it.", "integer"),
    Column("RESETS", ".status.resetsAt", "When the present window ends.", priority=1),
    Column("EXHAUSTED", ".status.forecastExhaustedAt", "When it will be used up at the present rate.", priority=1),
    _AGE,
)

RESOURCES: Final = (
    Resource(
        model=LLMService,
        plural="llmservices",
        short=("llm",),
        scope="Namespaced",
        columns=(
            Column("READY", _READY, "Whether all that it asks for is in place."),
            Column("BACKEND", ".spec.backend.type", "What answers the calls."),
            Column("PODS", ".status.summary.pods", "Pods with a working proxy, of those selected."),
            Column("TTFT-P95", ".status.summary.ttftP95", "95 % of streams have their first token within."),
            Column("P95", ".status.summary.p95", "95 % of calls are answered within."),
            Column("ERRORS", ".status.summary.errors", "Share of calls that fail."),
            Column("$/REQ", ".status.summary.costPerRequest", "What a call costs on average over 24 h."),
            Column("SPENT", ".status.summary.spent", "What calls cost in the last 24 h."),
            Column("BUDGET", ".status.summary.budget", "Share of the budget nearest its end that is spent."),
            _AGE,
            Column("TOKENS", ".status.summary.tokens", "Tokens in the last 24 h.", priority=1),
            Column("THROUGHPUT", ".status.summary.throughput", "Output tokens a second.", priority=1),
            Column("EXHAUSTED", ".status.summary.exhausted", "When that budget will be used up.", priority=1),
        ),
    ),
    Resource(model=LLMBudget, plural="llmbudgets", short=("llmb",), scope="Namespaced", columns=_SHARED),
    Resource(model=ClusterLLMBudget, plural="clusterllmbudgets", short=("cllmb",), scope="Cluster", columns=_SHARED),
    Resource(
        model=ModelPrice,
        plural="modelprices",
        short=("mprice",),
        scope="Cluster",
        columns=(
            Column("PROVIDER", ".spec.provider", "Whose models."),
            Column("MODELS", ".spec.models", "Their names."),
            Column("GPU", ".spec.gpu.product", "The GPU whose hours it prices."),
            Column("CURRENT", ".status.summary.current", "The price that applies now."),
            Column("READY", _READY, "Whether a price applies now.", priority=1),
            _AGE,
        ),
    ),
    Resource(
        model=ProviderAccount,
        plural="provideraccounts",
        short=("pacct",),
        scope="Cluster",
        columns=(
            Column("PROVIDER", ".spec.provider", "Who bills it."),
            Column("DAY", ".status.summary.day", "The newest day that is compared."),
            Column("BILLED", ".status.summary.provider", "What the provider charges for that day's tokens."),
            Column("COUNTED", ".status.summary.ledger", "What the ledger counted."),
            Column("VERDICT", ".status.summary.verdict", "How they compare."),
            Column("READY", _READY, "Whether the provider answers."),
            _AGE,
        ),
    ),
)
