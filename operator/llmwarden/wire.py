"""The ledger contract, version 1: what proxies and ledger say to each other (operator/ARCHITECTURE.md).

msgspec, not pydantic: the proxy's memory is paid once per pod. Money is in picodollars, times are RFC 3339 in UTC.
Unknown fields are ignored on both sides, so that either may be one version ahead.
"""

import datetime as dt
from typing import Literal

import msgspec

BudgetState = Literal["Open", "Warned", "Exceeded"]
BudgetAction = Literal["Alert", "Throttle", "Block", "Fallback"]
Unit = Literal["USD", "tokens"]


class Tokens(msgspec.Struct, frozen=True, omit_defaults=True):
    """Token counts; `cached_input` and `cache_write` are parts of `input`, `reasoning` a part of `output`."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0


class BudgetConfig(msgspec.Struct, frozen=True, rename="camel"):
    """One budget that a proxy gates by. `limit` and `spent` are picodollars or tokens, as `unit` says."""

    unit: Unit
    limit: int
    spent: int
    state: BudgetState
    action: BudgetAction
    window_start: dt.datetime
    resets_at: dt.datetime
    warn_at_percent: tuple[int, ...] = ()
    on_unknown_price: Literal["Allow", "Deny"] = "Allow"
    on_ledger_loss: Literal["Allow", "Deny"] = "Allow"
    fallback_model: str | None = None
    ceiling: int | None = None


class ServiceConfig(msgspec.Struct, frozen=True, rename="camel"):
    """One service of the pod. `Released`: its LLMService is gone: pass through, ungated and unreported."""

    state: Literal["Active", "Released"]
    provider: str = ""
    sample_percent: float = 100.0
    budgets: tuple[str, ...] = ()
    price_generation: str = ""


class Config(msgspec.Struct, frozen=True, rename="camel"):
    """Answer of GET /v1/config."""

    contract: int
    generation: str
    report_interval_seconds: float
    services: dict[str, ServiceConfig]
    budgets: dict[str, BudgetConfig]


class Picodollars(msgspec.Struct, frozen=True):
    """A resolved price, in picodollars per token of each kind, and per request."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    request: int = 0


class Price(msgspec.Struct, frozen=True, rename="camel"):
    """Answer of GET /v1/price; `price_id` is null where no price is known."""

    contract: int
    price_id: str | None = None
    picodollars: Picodollars | None = None
    valid_until: dt.datetime | None = None


class PodRef(msgspec.Struct, frozen=True):
    """Who reports."""

    namespace: str
    name: str
    uid: str


class Row(msgspec.Struct, frozen=True, rename="camel"):
    """Cumulative totals of one journal for one (service, provider, model, price, bucket)."""

    service: str
    provider: str
    model: str
    price_id: str | None
    bucket: int
    requests: int
    errors: int
    tokens: Tokens
    estimated: int = 0


class LeaseUse(msgspec.Struct, frozen=True):
    """What a journal has used of a budget in the present window, and what it would like to have on top."""

    budget: str
    used: int
    wanted: int


class Report(msgspec.Struct, frozen=True):
    """Body of POST /v1/report."""

    contract: int
    journal: str
    sequence: int
    pod: PodRef
    rows: tuple[Row, ...]
    final: bool = False
    leases: tuple[LeaseUse, ...] = ()


class BudgetUpdate(msgspec.Struct, frozen=True, rename="camel"):
    """What a report's answer says of a budget."""

    spent: int
    state: BudgetState
    resets_at: dt.datetime


class LeaseGrant(msgspec.Struct, frozen=True, rename="camel"):
    """What a journal may use of a budget in the present window in all, and until when."""

    budget: str
    granted: int
    expires_at: dt.datetime


class ReportAnswer(msgspec.Struct, frozen=True):
    """Answer of POST /v1/report."""

    contract: int
    accepted: int
    generation: str
    budgets: dict[str, BudgetUpdate] = {}
    leases: tuple[LeaseGrant, ...] = ()


class UsageTotals(msgspec.Struct, frozen=True, rename="camel"):
    """Sums over a span of time."""

    requests: int = 0
    errors: int = 0
    tokens: Tokens = Tokens()
    picodollars: int = 0
    uncosted_tokens: int = 0


class ServiceUsage(msgspec.Struct, frozen=True, rename="camel"):
    """Usage of one LLMService. `last24h` and `last_hour` are exact to one bucket."""

    last24h: UsageTotals
    last_hour: UsageTotals
    total: UsageTotals
    uncosted_models: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    reporting_pods: int = 0
    last_reported_at: dt.datetime | None = None


class ServiceShare(msgspec.Struct, frozen=True):
    """How much of a shared budget one service used."""

    service: str
    spent: int


class BudgetUsage(msgspec.Struct, frozen=True, rename="camel"):
    """One budget in its present window."""

    unit: Unit
    limit: int
    spent: int
    state: BudgetState
    action: BudgetAction
    window_start: dt.datetime
    resets_at: dt.datetime
    forecast_exhausted_at: dt.datetime | None = None
    top_services: tuple[ServiceShare, ...] = ()


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """Answer of GET /v1/usage: every service (`namespace/name`) and every budget (by key)."""

    contract: int
    as_of: dt.datetime
    services: dict[str, ServiceUsage]
    budgets: dict[str, BudgetUsage]


class ErrorDetail(msgspec.Struct, frozen=True):
    """Why a request was refused."""

    code: str
    message: str


class ErrorAnswer(msgspec.Struct, frozen=True):
    """Body of every refusal of the ledger."""

    error: ErrorDetail
