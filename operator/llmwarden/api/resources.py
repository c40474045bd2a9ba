"""The kinds and what their CustomResourceDefinitions hold apart from the schema: names, scope, columns of `kubectl get`."""

from dataclasses import dataclass
from typing import Final, Literal

from llmwarden.api.v1alpha1 import ClusterLLMBudget, LLMBudget, LLMService, ModelPrice, ProviderAccount
from llmwarden.names import GROUP

Scope = Literal["Namespaced", "Cluster"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`; a column of priority 1 is shown only with `-o wide`."""

    name: str
    path: str
    description: str
    type: Literal["string", "integer", "date"] = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of custom resource, with the model that its schema is made from."""

    model: type[LLMService | LLMBudget | ClusterLLMBudget | ModelPrice | ProviderAccount]
    plural: str
    short: tuple[str, ...]
    scope: Scope
    columns: tuple[Column, ...]

    @property
    def kind(self) -> str:
        """Return the kind, such as LLMService."""
        return self.model.__name__

    @property
    def singular(self) -> str:
        """Return the singular name, such as llmservice."""
        return self.kind.lower()

    @property
    def name(self) -> str:
        """Return the name of the CustomResourceDefinition: plural, dot, group."""
        return f"{self.plural}.{GROUP}"


_READY: Final = '.status.conditions[?(@.type=="Ready")].status'
_AGE: Final = Column("AGE", ".metadata.creationTimestamp", "Time since the object was created.", "date")
_SHARED: Final = (
    Column("LIMIT", ".status.summary.limit", "How much may be used in one window."),
    Column("WINDOW", ".spec.window.calendar", "Calendar period over which use is counted."),
    Column("ROLLING", ".spec.window.rolling", "Rolling span over which use is counted.", priority=1),
    Column("SPENT", ".status.summary.spent", "How much is used in the present window."),
    Column("USED", ".status.summary.used", "Share of the limit that is used."),
    Column("STATE", ".status.state", "Open, Warned or Exceeded."),
    Column("ACTION", ".spec.onExceeded.action", "What happens to calls once the limit is reached."),
    Column("SERVICES", ".status.services", "Number of services that share the budget.", "integer"),
    Column("RESETS", ".status.resetsAt", "When the present window ends.", priority=1),
    Column(
        "EXHAUSTED", ".status.forecastExhaustedAt", "When the budget will be used up at the present rate.", priority=1
    ),
    _AGE,
)

RESOURCES: Final = (
    Resource(
        model=LLMService,
        plural="llmservices",
        short=("llm",),
        scope="Namespaced",
        columns=(
            Column("READY", _READY, "Whether everything that the spec asks for is in place."),
            Column("BACKEND", ".spec.backend.type", "Provider or engine that answers the calls."),
            Column("PODS", ".status.summary.pods", "Pods with a working proxy, of those selected."),
            Column("TTFT-P95", ".status.summary.ttftP95", "Time to first token that 95 % of streams did not exceed."),
            Column("P95", ".status.summary.p95", "Duration that 95 % of calls did not exceed."),
            Column("ERRORS", ".status.summary.errors", "Share of calls that failed."),
            Column("$/REQ", ".status.summary.costPerRequest", "Average cost of a call in the last 24 hours."),
            Column("SPENT", ".status.summary.spent", "Cost of the calls in the last 24 hours."),
            Column(
                "BUDGET", ".status.summary.budget", "Used share and name of the budget with the largest used share."
            ),
            _AGE,
            Column("TOKENS", ".status.summary.tokens", "Number of tokens in the last 24 hours.", priority=1),
            Column("THROUGHPUT", ".status.summary.throughput", "Output tokens a second.", priority=1),
            Column(
                "EXHAUSTED",
                ".status.summary.exhausted",
                "When the first of the budgets will be used up, in UTC.",
                priority=1,
            ),
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
            Column("PROVIDER", ".spec.provider", "Provider of the models."),
            Column("MODELS", ".spec.models", "Names of the models."),
            Column("GPU", ".spec.gpu.product", "GPU whose hours are priced."),
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
            Column("PROVIDER", ".spec.provider", "Provider that bills the account."),
            Column("DAY", ".status.summary.day", "The newest day that was compared."),
            Column("BILLED", ".status.summary.provider", "What the provider charges for that day's tokens."),
            Column("COUNTED", ".status.summary.ledger", "What the ledger counted for that day."),
            Column("VERDICT", ".status.summary.verdict", "Result of the comparison for that day."),
            Column("READY", _READY, "Whether the provider answers."),
            _AGE,
        ),
    ),
)
