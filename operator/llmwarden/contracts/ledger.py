"""The ledger contract, version 1: what proxies, the operator and the ledger say to each other over HTTPS, as JSON.

A proxy asks for `Config` and `Price` and sends `Report`; the operator reads `Usage` and sends `GpuReport`. What a ledger answers on
`/v1/spend` and `/v1/reconciliation` is in modules of their own, because no sidecar needs it. Others import this module as `wire`
(`from llmwarden.contracts import ledger as wire`): where a ledger is a value, `ledger.Usage` would read as something else.

msgspec, not pydantic: the proxy's memory is paid once per pod. Money is in picodollars, times are RFC 3339 in UTC. Unknown fields are
ignored on both sides, so that either may be one version ahead.

Who may ask
    The bearer token is a service-account token with audience `llmwarden-ledger`, checked by TokenReview. A proxy's token names its pod:
    it may ask and report for that pod only, and for the services that this pod was injected for (`names.ANNOTATION_SERVICES`, which the
    ledger reads itself). The operator may read everything. Otherwise 401, 403, or 403 `not_injected`. A pod has at most two reports under
    way and eight journals: else 429.
    A version that the ledger does not speak is 409 `unsupported_contract`. Errors are `{"error": {"code": ..., "message": ...}}`.
    Until the ledger has read the LLMServices, questions are answered 503 with `Retry-After`, so that a restart releases nobody; reports
    are taken.

`GET /v1/config?contract=1&services=a,b&generation=G&wait=25`
    A long poll: answered at once when the generation is another than G, else after `wait` seconds with 304. A service that is `departed` has
    no LLMService any more: its pods are gated by the shared budgets that held for it, and report, and our key goes to the upstream no more. One
    that is `Released` never had one that the ledger knows, and no budget holds for it: pass through, ungated, unreported, and without our
    key. A generation is one per namespace: it moves with budgets'
    states and windows, prices and specs, not with every dollar.

`GET /v1/price?contract=1&service=a&model=m`
    A proxy keeps the answer until `priceGeneration` changes or `validUntil` passes. A null (no price) holds only for the generation that
    the proxy's configuration has, because replicas may be a moment apart. No answer is not a null (docs/money.md). A self-hosted model
    that is priced by GPU-hours is answered with `provisional: true`, no id and the present rate.

`POST /v1/report`
    Rows are cumulative and only grow; the ledger keeps the maximum per (journal, service, provider, model, priceId, bucket, context, tier,
    labels), so duplicates and reordering change nothing. A row whose bucket is closed and acknowledged need not be sent again. A row that
    makes no sense (a service that never was, a bucket more than a day ahead) is left out and counted, and the rest is taken: a report
    refused for one row would be refused for ever. A row with `priceId: null` is priced by the ledger at the bucket's start, and counts as
    uncosted while there is no price; so does an id that was never handed out for this provider and model. At most 1 MiB and 10,000 rows.
    Rows beyond the ledger's quotas count together under `names.FOLDED`, to the same sums.

Leases
    A lease is a right to spend, of one budget and one journal; it belongs to no window. With S what is counted in the budget's present
    window, and O the sum of all journals' balances, the ledger grants only while S + O + grant <= limit. A proxy admits a call only while
    its balance, less what is reserved for calls under way, covers the call's upper bound; at the end it takes the call's cost off.

    - A report's balance is what remains *without* its own rows. One transaction merges the rows (S grows), sets this journal's balance and
      adds the grant. What was granted and not reported back stays outstanding: a lost answer only reserves too much, until the next report.
    - `sequence` orders a journal's reports: the ledger ignores the lease part of one that is not newer than the last, and the proxy ignores
      grants that do not answer its latest report.
    - `needed` is what the smallest waiting call lacks: the ledger grants that or nothing, waiting calls first, the rest by shares
      (`domain/leases.py`). Where others have what is missing, it sets `recall` for them and answers `retrySeconds`.
    - Leased are budgets that `Block`, and `Fallback` with a ceiling. Proxies obey `state` for the rest. docs/money.md states the bounds.
    - A restarted proxy has balance 0. The balance of a silent journal stays outstanding until its pod is known to be gone, or its `final`
      report came. At a window's end balances stay and count against the new window.

`POST /v1/gpus` (the operator)
    Which pod had how many GPUs from when to when. Spans are merged: the earliest `since`, the latest `until`, the earliest end. Rows of a
    proxy whose upstream is in its own pod carry `busyMs`, `prefillMs` and `decodeMs`, by which the ledger shares each closed hour among
    tokens (`domain/gpuhours.py`). A share is a function of what is stored and never stored itself: late data and restarts come to the
    same sums.
"""

import datetime as dt
from typing import Final, Literal

import msgspec

REPORT_PATH: Final = "/v1/report"

BudgetState = Literal["Open", "Warned", "Exceeded"]
BudgetAction = Literal["Alert", "Throttle", "Block", "Fallback"]
Unit = Literal["USD", "tokens"]


class Tokens(msgspec.Struct, frozen=True, omit_defaults=True):
    """Token counts; `cached_input`, `cache_write` and `input_audio` are parts of `input`, `reasoning` and `output_audio` of `output`.

    `cache_write_1h` is the part of `cache_write` that is kept for an hour (Anthropic; the rest is kept for five minutes).
    Cached audio counts as `cached_input`, not as `input_audio`.
    """

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    cache_write_1h: int = 0
    input_audio: int = 0
    output_audio: int = 0


class Labels(msgspec.Struct, frozen=True, omit_defaults=True):
    """To whom a call is attributed: by request headers or by the LLMService; bounded in number at both sides."""

    feature: str = ""
    team: str = ""
    cohort: str = ""


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
    leased: bool = False  # calls are admitted from a lease (below), not by `spent`


class ServiceConfig(msgspec.Struct, frozen=True, rename="camel"):
    """One service of the pod.

    `departed`: its LLMService is gone: gate and report as before, but add no key of ours. Its state is `Active`, so that a proxy which does not
    know the field goes on gating. `Released`: the ledger knows neither the service nor a budget over it: pass through, ungated and unreported.
    """

    state: Literal["Active", "Released"]
    provider: str = ""
    sample_percent: float = 100.0
    budgets: tuple[str, ...] = ()
    price_generation: str = ""
    labels: Labels = Labels()  # where a request says nothing
    departed: bool = False


class Config(msgspec.Struct, frozen=True, rename="camel"):
    """Answer of GET /v1/config."""

    contract: int
    generation: str
    report_interval_seconds: float
    services: dict[str, ServiceConfig]
    budgets: dict[str, BudgetConfig]
    now: dt.datetime | None = None  # the ledger's clock: buckets and windows go by it, whatever the pod's clock says
    context_bounds: tuple[int, ...] = ()  # input tokens of one call from which some price changes, rising


class Picodollars(msgspec.Struct, frozen=True, omit_defaults=True):
    """A resolved price, in picodollars per token of each kind, and per request. None: as the kind it is a part of."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    request: int = 0
    cache_write_1h: int | None = None
    reasoning: int | None = None
    input_audio: int | None = None
    output_audio: int | None = None


class PriceVariant(msgspec.Struct, frozen=True):
    """What a call costs instead that has at least `context` input tokens, or was served in a `tier` ("batch", "flex", "priority").

    The variant of the row's tier with the largest `context` that is not above the row's applies; a tier without one has no known price.
    """

    context: int
    tier: str
    picodollars: Picodollars


class Price(msgspec.Struct, frozen=True, rename="camel"):
    """Answer of GET /v1/price; `price_id` is null where no price is known.

    `provisional`: gate and show by these picodollars, but report without an id: the ledger rates such tokens by GPU-hours when
    their hour is over. (A proxy that does not know the field takes it for an unknown price, which is what it reports then.)
    """

    contract: int
    price_id: str | None = None
    picodollars: Picodollars | None = None
    variants: tuple[PriceVariant, ...] = ()
    window: int = 0  # tokens that the model can read and write in one call; 0: not known
    valid_until: dt.datetime | None = None
    provisional: bool = False
    # Of which generation of prices this is (`ServiceConfig.price_generation`): replicas may be a moment apart. "" where the ledger does not
    # know the service (yet); null from a ledger that does not say.
    generation: str | None = None


class PodRef(msgspec.Struct, frozen=True):
    """Who reports."""

    namespace: str
    name: str
    uid: str


class Row(msgspec.Struct, frozen=True, rename="camel"):
    """Cumulative totals of one journal for one (service, provider, model, price, bucket, context, tier, labels).

    `context` is the largest of `Config.context_bounds` that a call's input reached, 0 below all of them: history can be rated
    exactly by a price that comes later. `tier` is "" for ordinary calls.
    """

    service: str
    provider: str
    model: str
    price_id: str | None
    bucket: int
    requests: int
    errors: int
    tokens: Tokens
    estimated: int = 0
    context: int = 0
    tier: str = ""
    labels: Labels = Labels()
    # Milliseconds, of calls that a model in the proxy's own pod answered: in which calls were in flight (overlaps once), and that
    # prefill and decode took (overlaps each for themselves). What GPU-hours are shared by.
    busy_ms: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0


class LeaseUse(msgspec.Struct, frozen=True):
    """What a journal may still spend of a budget, without what this report's rows say it has spent; and what it wants on top.

    `balance` includes what is reserved for calls under way. A balance below the ledger's figure returns the difference.
    `needed` (at most `wanted`) is what the smallest of the calls that wait for a grant lacks: less is of no use.
    """

    budget: str
    balance: int
    wanted: int = 0
    needed: int = 0


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
    """What is added to a journal's balance: once, and only by the answer to the latest report it sent.

    `recall`: others want what is idle here; report without it soon. `retry_seconds`: when to ask again after a grant of less than was wanted.
    """

    budget: str
    granted: int
    recall: bool = False
    retry_seconds: float = 0.0


class ReportAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """Answer of POST /v1/report."""

    contract: int
    accepted: int
    generation: str
    budgets: dict[str, BudgetUpdate] = {}
    leases: tuple[LeaseGrant, ...] = ()
    now: dt.datetime | None = None  # the ledger's clock
    report_interval_seconds: float | None = None  # from now on; adapts to load and to how near a budget is


class GpuPod(msgspec.Struct, frozen=True, rename="camel"):
    """GPUs of one product that a pod of a service (`namespace/name`) holds: the operator's word.

    Merged by the span's bounds: `since` only falls, `until` only rises, so repeats, losses and restarts change nothing and a gap
    between two reports is no gap. `ended`: `until` is when it let them go, and nothing later counts. `serves`: calls reach its
    model through a proxy; the other pods of a service (workers of a model over several nodes) are as busy as those.
    """

    service: str
    uid: str
    name: str
    resource: str  # such as nvidia.com/gpu
    product: str  # as a ModelPrice names it; the resource where no label of the node tells. A later one corrects an earlier one
    gpus: int
    since: dt.datetime
    until: dt.datetime
    ended: bool = False
    serves: bool = True
    rate: int = 0  # picodollars an hour of one GPU of its node, as OpenCost says; 0: it does not


class GpuReport(msgspec.Struct, frozen=True):
    """Body of POST /v1/gpus."""

    contract: int
    pods: tuple[GpuPod, ...]


class GpuAnswer(msgspec.Struct, frozen=True):
    """Answer of POST /v1/gpus: `accepted` are on the disk; the others cannot be meant."""

    contract: int
    accepted: int


class UsageTotals(msgspec.Struct, frozen=True, rename="camel"):
    """Sums over a span of time, net of what the platform wrote off (`contracts/correction.py`): `written_off…` says how much that was.

    `quarantined…` is a part of them that is implausible, and that shared budgets do not count. Tokens of both are input and output.
    """

    requests: int = 0
    errors: int = 0
    tokens: Tokens = Tokens()
    picodollars: int = 0
    uncosted_tokens: int = 0
    quarantined_picodollars: int = 0
    quarantined_tokens: int = 0
    written_off_picodollars: int = 0
    written_off_tokens: int = 0


class Rerating(msgspec.Struct, frozen=True):
    """What a new price changed in a service's history: picodollars more (or less), for so many tokens that had no price."""

    at: dt.datetime
    picodollars: int
    tokens: int


class GpuUsage(msgspec.Struct, frozen=True, rename="camel"):
    """GPUs that a service held, over a span of time. Money is in picodollars, and of closed hours whose rates are all known.

    `picodollars` is their whole cost, `idle` the part that no call pays; the rest is in the totals of tokens, or (`covered`) of tokens
    that a ModelPrice prices by themselves. `unpriced_milliseconds` have no known rate: `products` names which GPUs need one.
    """

    milliseconds: int = 0  # times GPUs
    picodollars: int = 0
    idle: int = 0
    covered: int = 0
    tokens: int = 0  # of the same hours
    unpriced_milliseconds: int = 0
    products: tuple[str, ...] = ()
    input_picodollars: int | None = None  # a token, as calls are gated now; None where that is not known
    output_picodollars: int | None = None
    lost_pods: int = 0  # whose end nobody saw: they count until they were last seen


class ServiceUsage(msgspec.Struct, frozen=True, rename="camel"):
    """Usage of one LLMService. `last24h` and `last_hour` are exact to one bucket."""

    last24h: UsageTotals
    last_hour: UsageTotals
    total: UsageTotals
    uncosted_models: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    reporting_pods: int = 0
    last_reported_at: dt.datetime | None = None
    rerated: Rerating | None = None  # the last time, in this life of the ledger
    gpu: GpuUsage | None = None  # of the last 24 hours; None where it holds no GPUs


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
