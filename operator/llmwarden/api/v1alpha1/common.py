"""Parts that several kinds share: the base model, scalar types with their CEL rules, and the fields of a budget.

The models are the single source of truth: `llmwarden.api.crdgen` writes `crds/` from them. A rule over several fields is CEL in the
model's config (`rules(...)`), and the API server enforces it. `llmwarden.domain` checks what CEL cannot know, such as time zones and
allowed hosts, and a failure becomes a condition. Every string has a maximal length and every list a maximal number of
items: the API server refuses CEL rules whose cost it cannot bound.
"""

import datetime as dt
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from llmwarden.contracts.ledger import BudgetAction

BackendType = Literal[
    "OpenAI",
    "AzureOpenAI",
    "Anthropic",
    "Bedrock",
    "Gemini",
    "VLLM",
    "SGLang",
    "TGI",
    "Ollama",
    "NIM",
    "TensorRTLLM",
    "LlamaCpp",
    "OpenAICompatible",
]
InterceptionType = Literal["Env", "Port"]
Calendar = Literal["Hour", "Day", "Week", "Month"]
Admit = Literal["Allow", "Deny"]
Indicator = Literal["TimeToFirstToken", "TimePerOutputToken", "RequestDuration"]
BudgetScope = Literal["LLMService", "LLMBudget", "ClusterLLMBudget"]
ConditionStatus = Literal["True", "False", "Unknown"]
ConditionType = Literal[
    "Ready",
    "Instrumented",
    "MetricsFresh",
    "AlertsReady",
    "DashboardReady",
    "ScrapeSelected",
    "RulesSelected",
    "RouteMatched",
    "DashboardSelected",
    "WithinBudget",
    "MeetsObjectives",
    "RetentionTooShort",
    "CostKnown",
    "GPUMetricsReady",
    "CostDrift",
    "Observed",
]

# Exact in picodollars: 12 decimals. Nine digits before the point, because a budget of a billion dollars is a mistake.
AMOUNT_PATTERN = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,12})?$"
# Per million tokens, six decimals are whole picodollars per token; five digits before the point are 100 times the price of today's most expensive model.
PRICE_PATTERN = r"^(0|[1-9][0-9]{0,4})(\.[0-9]{1,6})?$"


def rule(cel: str, message: str, path: str | None = None) -> dict[str, str]:
    """Return one `x-kubernetes-validations` entry; `path` is a JSONPath relative to the schema that carries it."""
    entry = {"rule": cel, "message": message}
    if path is not None:
        entry["fieldPath"] = path
    return entry


def rules(*entries: dict[str, str], **more: Any) -> dict[str, Any]:
    """Return a schema extension with CEL rules, and any further keys."""
    return {"x-kubernetes-validations": list(entries), **more}


def short_name(why: str = "") -> dict[str, str]:
    """Return the rule that an object's name is at most as long as a label's value; `why` adds the reason to its message."""
    message = f"metadata.name must have at most 63 characters{why}: choose a shorter name"
    return rule("self.metadata.name.size() <= 63", message)


BECOMES_A_LABEL: Final = ", because it becomes a label's value"


def list_map(*keys: str) -> dict[str, Any]:
    """Return a schema extension: a list whose items have these keys, so that server-side apply merges item by item."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def named(what: str) -> dict[str, Any]:
    """Return a schema extension: a list whose items have unique names, and the message for two of one name."""
    unique = rule(
        "self.all(item, self.exists_one(other, other.name == item.name))",
        f"two {what} have the same name: give each its own",
    )
    return list_map("name") | rules(unique)


ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
ATOMIC_MAP: dict[str, Any] = {"x-kubernetes-map-type": "atomic"}


def _rfc3339(value: dt.datetime) -> str:
    # Whole seconds, as Kubernetes writes its own times: a fraction would make every status differ from the last.
    return value.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[AwareDatetime, PlainSerializer(_rfc3339, return_type=str)]


def cut(length: int) -> BeforeValidator:
    """Return a validator that shortens a text of a status: a long message must not make the whole status invalid."""

    def shorten(value: Any) -> Any:
        return value[: length - 1] + "…" if isinstance(value, str) and len(value) > length else value

    return BeforeValidator(shorten)


def first(items: int) -> BeforeValidator:
    """Return a validator that keeps the first items of a status's list: a long list must not make the whole status invalid."""

    def keep(value: Any) -> Any:
        return tuple(value)[:items] if isinstance(value, list | tuple) else value

    return BeforeValidator(keep)


Text = Annotated[str, Field(max_length=1024), cut(1024)]
Short = Annotated[str, Field(max_length=253), cut(253)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
Count = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]

DnsLabel = Annotated[
    str,
    Field(
        min_length=1,
        max_length=63,
        json_schema_extra=rules(
            rule(
                "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
                "must have only lower-case letters, digits and '-', and begin and end with a letter or digit, such as daily-budget",
            )
        ),
    ),
]
PositiveAmount = Annotated[
    str,
    Field(
        max_length=24,
        json_schema_extra=rules(
            rule(
                f"self.matches(r'{AMOUNT_PATTERN}') && double(self) > 0.0",
                'must be a decimal number of US dollars above zero and in quotes, such as "25.00" '
                "(at most 9 digits before the point and 12 after it)",
            )
        ),
    ),
]
UnitPrice = Annotated[
    str,
    Field(
        max_length=16,
        json_schema_extra=rules(
            rule(
                f"self.matches(r'{PRICE_PATTERN}')",
                'must be a decimal number of US dollars, zero or more, below 100000 and in quotes, such as "0.12" '
                "(at most 6 digits after the point)",
            )
        ),
    ),
]
RequestPrice = Annotated[
    str,
    Field(
        max_length=20,
        json_schema_extra=rules(
            rule(
                r"self.matches(r'^(0|[1-9][0-9]{0,4})(\.[0-9]{1,12})?$')",
                'must be a decimal number of US dollars, zero or more, below 100000 and in quotes, such as "0.0001" '
                "(at most 12 digits after the point)",
            )
        ),
    ),
]
Percent = Annotated[
    str,
    Field(
        max_length=8,
        json_schema_extra=rules(
            rule(
                r"self.matches(r'^(0|[1-9][0-9]?)(\.[0-9]{1,4})?$') && double(self) > 0.0",
                'must be a percentage above 0 and below 100, in quotes, such as "99" or "99.9"',
            )
        ),
    ),
]
Threshold = Annotated[
    str,
    Field(
        max_length=12,
        json_schema_extra=rules(
            rule(
                "self.matches('^([1-9][0-9]{0,6}ms|[1-9][0-9]{0,3}s|[1-9][0-9]?m)$')",
                'must be a whole number of milliseconds, seconds or minutes, such as "500ms", "10s" or "2m" '
                '(write 1.5 seconds as "1500ms")',
            )
        ),
    ),
]
QuietTime = Annotated[
    str,
    Field(
        max_length=4,
        json_schema_extra=rules(
            rule(
                "self.matches('^([2-9]|[1-9][0-9])m$|^([1-9]|1[0-9]|2[0-4])h$')",
                'must be a whole number of minutes (2m to 99m) or hours (1h to 24h), such as "5m"',
            )
        ),
    ),
]
WholePercent = Annotated[
    int,
    Field(
        json_schema_extra=rules(
            rule("self >= 1 && self <= 100", "must be a whole percentage from 1 to 100"), format="int32"
        )
    ),
]
WholeWindow = Annotated[
    str,
    Field(
        max_length=8,
        json_schema_extra=rules(
            rule(
                "self.matches('^([1-9][0-9]{0,2}h|[1-9][0-9]?d)$')",
                'must be a whole number of hours (1h to 999h) or days (1d to 99d), such as "24h" or "28d"',
            )
        ),
    ),
]
TimeZone = Annotated[
    str,
    Field(
        max_length=64,
        json_schema_extra=rules(
            rule(
                "self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$')",
                'must be the name of an IANA time zone, such as "Asia/Seoul" or "UTC"',
            )
        ),
    ),
]


class Model(BaseModel):
    """Base of every model: frozen, camelCase outside, unknown fields ignored (the API server prunes them already)."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )

    def dump(self) -> dict[str, Any]:
        """Return this value as Kubernetes JSON: camelCase, without fields that are None."""
        dumped: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return dumped

    def replace(self, **changes: Any) -> Self:
        """Return a copy with these attributes changed (not validated)."""
        return self.model_copy(update=changes)


class Status(Model):
    """Base of a kind's status. Only the operator writes it, and always as a whole.

    So server-side apply treats it as one value: a list of the owners of its fields would take half of the stored object.
    """

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)


class Metadata(Model):
    """The fields of an object's metadata that LLM Warden reads."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None


class LabelSelectorRequirement(Model):
    """One condition on the value of a label."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : "
                "!has(self.values) || self.values.size() == 0",
                "values is required with operator In or NotIn, and not allowed with Exists or DoesNotExist: add or remove values",
            )
        )
    )

    key: Annotated[str, Field(min_length=1, max_length=317)]
    """Key of the label that is tested. Required. Example: `app`."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label is tested: In and NotIn compare its value with `values`; Exists and DoesNotExist test only whether
    the label is there. Required. Example: `In`.
    """
    values: Annotated[
        tuple[Annotated[str, Field(max_length=63)], ...], Field(max_length=32, json_schema_extra=ATOMIC)
    ] = ()
    """Values that In and NotIn compare with; leave empty for Exists and DoesNotExist. Default: none. Example: `[chat,
    search]`.
    """


class LabelSelector(Model):
    """A Kubernetes label selector: an object is selected if it meets every condition."""

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    match_labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=16)] = {}
    """Labels that an object must have, with exactly these values. Default: none. Example: `{app: support-bot}`."""
    match_expressions: Annotated[
        tuple[LabelSelectorRequirement, ...], Field(max_length=16, json_schema_extra=ATOMIC)
    ] = ()
    """More conditions on labels. All of them must hold. Set it where equality (matchLabels) is not enough. Default:
    none.
    """


class SecretKeyRef(Model):
    """One key of a Secret in the same namespace."""

    model_config = ConfigDict(json_schema_extra=ATOMIC_MAP)

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret. Required. Example: `openai`."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern="^[-._a-zA-Z0-9]+$")]
    """Key in the Secret's data. Required. Example: `api-key`."""


class Limit(Model):
    """How much may be used: exactly one of an amount of money and a number of tokens."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.amount) != has(self.tokens)",
                'set exactly one of amount (US dollars) and tokens, such as amount: "25.00"',
            ),
            rule(
                "!has(self.currency) || has(self.amount)",
                "currency is only for amount: remove currency from a limit in tokens",
                ".currency",
            ),
        )
    )

    amount: PositiveAmount | None = None
    """Highest spend in US dollars, as a decimal number in quotes. Set either amount or tokens. Default: none. Example:
    `"25.00"`.
    """
    currency: Literal["USD"] | None = None
    """Currency of `amount`. Only USD is possible, because all prices are in US dollars. Default: `USD`. Example: `USD`.
    """
    tokens: (
        Annotated[
            int,
            Field(
                le=10**15,
                json_schema_extra=rules(
                    rule("self > 0", "must be a whole number of tokens above zero"), format="int64"
                ),
            ),
        ]
        | None
    ) = None
    """Highest number of tokens: input (cached included) plus output (reasoning included). Set either amount or tokens.
    Default: none. Example: `5000000`.
    """


class Window(Model):
    """The time over which use is counted: exactly one of a calendar period and a rolling span."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.calendar) != has(self.rolling)",
                "set exactly one of calendar (such as Day) and rolling (such as 24h)",
            ),
            rule(
                "!has(self.timeZone) || has(self.calendar)",
                "timeZone is only for calendar: remove timeZone from a rolling window",
                ".timeZone",
            ),
        )
    )

    calendar: Calendar | None = None
    """Calendar period in `timeZone`, at whose end the count returns to zero; a week begins on Monday. Set either
    calendar or rolling. Default: none. Example: `Day`.
    """
    time_zone: TimeZone | None = None
    """IANA time zone in which the calendar period begins and ends. Only with calendar. Default: `UTC`. Example:
    `Asia/Seoul`.
    """
    rolling: WholeWindow | None = None
    """Span that ends now, in hours or days, counted in steps of 15 minutes. Set either calendar or rolling. Default:
    none. Example: `24h`.
    """


class OnExceeded(Model):
    """What happens to calls once the limit is reached."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.action) || self.action != 'Fallback' || has(self.model)",
                "model is required with action Fallback: name the cheaper model that calls are sent to",
            ),
            rule(
                "(has(self.action) && self.action == 'Fallback') || (!has(self.model) && !has(self.ceiling))",
                "model and ceiling are only for action Fallback: remove them, or set action: Fallback",
            ),
        )
    )

    action: BudgetAction = "Alert"
    """What is done with calls once the limit is reached: Alert only sends alerts; Throttle slows calls down; Block
    refuses them; Fallback sends them to a cheaper model. Default: `Alert`. Example: `Block`.
    """
    model: ModelName | None = None
    """Model that calls are sent to instead. Required with action Fallback, not allowed with other actions. Default:
    none. Example: `gpt-4o-mini`.
    """
    ceiling: Limit | None = None
    """Second limit for action Fallback, at which calls are refused. It must be above the limit and in the same unit.
    Set it to bound what the fallback model may use. Default: none, so that fallback calls are never refused.
    """


class BudgetPolicy(Model):
    """What every budget has: a limit, a window, and what happens at the limit."""

    limit: Limit
    """How much may be used in one window, in money or in tokens. Required."""
    window: Window
    """The time over which use is counted. Required."""
    warn_at_percent: Annotated[
        tuple[
            Annotated[
                int,
                Field(
                    json_schema_extra=rules(
                        rule("self >= 1 && self <= 100", "must be a whole percentage from 1 to 100"), format="int32"
                    )
                ),
            ],
            ...,
        ],
        Field(max_length=8, json_schema_extra=SET),
    ] = ()
    """Shares of the limit, in whole percent, at which a warning is sent. Default: none. Example: `[50, 80]`."""
    on_exceeded: OnExceeded = OnExceeded()
    """What happens to calls once the limit is reached. Set it to slow down, refuse or redirect calls. Default:
    `{action: Alert}`.
    """
    on_unknown_price: Admit | None = None
    """Whether calls may pass when the price of their model is unknown. Default: Deny with action Block, otherwise
    Allow. Example: `Deny`.
    """
    on_ledger_loss: Admit = "Allow"
    """Whether calls may pass while the ledger does not answer and the share that it lent to the proxy in advance is
    used up. Default: `Allow`. Example: `Deny`.
    """


# CEL rules for every model that has the fields of BudgetPolicy.
BUDGET_RULES = (
    rule(
        "!has(self.onExceeded) || !has(self.onExceeded.ceiling) || "
        "has(self.onExceeded.ceiling.amount) == has(self.limit.amount)",
        "onExceeded.ceiling must be in the unit of limit: both amount, or both tokens",
        ".onExceeded",
    ),
    rule(
        "!has(self.onExceeded) || !has(self.onExceeded.ceiling) || "
        "!has(self.onExceeded.ceiling.amount) || !has(self.limit.amount) || "
        f"!self.limit.amount.matches(r'{AMOUNT_PATTERN}') || "
        f"!self.onExceeded.ceiling.amount.matches(r'{AMOUNT_PATTERN}') || "
        "double(self.onExceeded.ceiling.amount) > double(self.limit.amount)",
        "onExceeded.ceiling.amount must be above limit.amount: raise the ceiling, or remove it",
        ".onExceeded",
    ),
    rule(
        "!has(self.onExceeded) || !has(self.onExceeded.ceiling) || "
        "!has(self.onExceeded.ceiling.tokens) || !has(self.limit.tokens) || "
        "self.onExceeded.ceiling.tokens > self.limit.tokens",
        "onExceeded.ceiling.tokens must be above limit.tokens: raise the ceiling, or remove it",
        ".onExceeded",
    ),
)


class Money(Model):
    """An exact amount of money."""

    amount: Annotated[str, Field(max_length=40)]
    """The amount, as a decimal number. Example: `12.30`."""
    currency: Literal["USD"] = "USD"
    """Currency of the amount, always USD."""


class Condition(Model):
    """A Kubernetes condition."""

    type: Annotated[str, Field(min_length=1, max_length=316)]
    """What the condition is about. Example: `Ready`."""
    status: ConditionStatus
    """Whether the condition holds: True, False or Unknown."""
    reason: Annotated[str, Field(min_length=1, max_length=256, pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """Why the condition has this status, as one CamelCase word. Example: `PriceUnknown`."""
    message: Annotated[str, Field(max_length=4096), cut(4096)] = ""
    """Why the condition has this status and what to do about it, in a sentence. Empty where the reason says all."""
    last_transition_time: Time
    """When `status` last changed."""
    observed_generation: Count = 0
    """The metadata.generation of the spec that the condition describes. A lower number than metadata.generation means
    that a newer spec was not looked at yet.
    """


Conditions = Annotated[tuple[Condition, ...], Field(max_length=24, json_schema_extra=list_map("type"))]
