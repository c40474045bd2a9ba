"""Providers' own usage and cost, by UTC day: OpenAI's and Anthropic's admin APIs, read only.

OpenAI, `Authorization: Bearer` with an admin key: `GET /v1/organization/costs` (US dollars as numbers, by line item), and
`/v1/organization/usage/{completions,embeddings}` (tokens). Unix seconds; arrays as `project_ids[]`.
Anthropic, `x-api-key` with an admin key: `GET /v1/organizations/cost_report` (cents as decimal strings, by description) and
`/v1/organizations/usage_report/messages`. RFC 3339; its cost report cannot be narrowed to workspaces: that is done here.
Both answer buckets of a day, in pages: `has_more`, `next_page`, sent back as `page`.

The admin key goes to the account's host only (redirects are not followed), and is in no message, log or exception.
"""

import datetime as dt
import email.utils
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal, DecimalException
from typing import Any, Final, TypeVar

import httpx
import msgspec

from llmwarden import __version__, bounded, names
from llmwarden.contracts.reconciliation import Side
from llmwarden.domain.drift import Account
from llmwarden.errors import UNREADABLE, WardenError

TIMEOUT: Final = 60.0
LARGEST: Final = 16 * 1024 * 1024  # bytes of one answer
MOST_PAGES: Final = 100
MOST_DAYS: Final = 31  # of one question: what both allow
KEY: Final = re.compile(r"[!-~]{1,1024}")
LONGEST: Final = 200  # characters of an answer that a message repeats
# Of a line of OpenAI's costs: what is no tokens. A line that says no unit counts as tokens: nothing may hide there.
OTHER_UNITS: Final = frozenset(
    {"duration_seconds", "duration_minutes", "duration_hours", "gibibyte_hours", "images", "characters"}
)
MOST_DOLLARS: Final = 10**6  # of a line of one day: 64 bits hold picodollars of nine times as much
MOST_TOKENS: Final = 2**50
_CENTS: Final = 100
Page = TypeVar("Page", "_CostPage", "_UsagePage", "_CostReport", "_UsageReport")


class ProviderError(WardenError):
    """A provider's figures could not be read. `reason` is for machines, `retry_after` in seconds where it was said."""

    def __init__(self, message: str, *, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


class Billed(msgspec.Struct, frozen=True):
    """What a provider says of one day: its tokens and what they cost, and what it charges beside (picodollars)."""

    side: Side = Side()
    other: int = 0

    def plus(self, *, input: int = 0, output: int = 0, picodollars: int = 0, other: int = 0) -> "Billed":  # noqa: A002 - the field's word
        """Return it with more."""
        side = self.side
        return Billed(
            Side(side.input + input, side.output + output, side.picodollars + picodollars), self.other + other
        )


Days = dict[dt.date, Billed]


async def read(http: httpx.AsyncClient, account: Account, key: str, start: dt.date, end: dt.date) -> Days:
    """Read the days from `start` to before `end`, at most 31; a day of which nothing is said has nothing. Raises ProviderError."""
    if not KEY.fullmatch(key):
        message = "the admin key is empty, or has blanks, line breaks or other characters that a key cannot have"
        raise ProviderError(message, reason="KeyMalformed")
    days: Days = {start + dt.timedelta(days=number): Billed() for number in range((end - start).days)}
    ask = _Questions(http, account, key)
    try:
        await (_openai if account.api == "OpenAI" else _anthropic)(ask, account, days, start, end)
    except (_Malformed, *UNREADABLE) as error:
        message = f"{account.api} gave an implausible answer: {error}"
        raise ProviderError(message, reason="Malformed") from error
    return days


# OpenAI ---------------------------------------------------------------------------------------------------------------


class _Amount(msgspec.Struct):
    value: Decimal = Decimal(0)
    currency: str = "usd"


class _Cost(msgspec.Struct):
    amount: _Amount | None = None
    line_item: str | None = None
    quantity_unit: str | None = None


class _Usage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0


class _CostBucket(msgspec.Struct):
    start_time: int
    results: list[_Cost]


class _UsageBucket(msgspec.Struct):
    start_time: int
    results: list[_Usage]


class _CostPage(msgspec.Struct):
    data: list[_CostBucket]
    has_more: bool
    next_page: str | None = None


class _UsagePage(msgspec.Struct):
    data: list[_UsageBucket]
    has_more: bool
    next_page: str | None = None


async def _openai(ask: "_Questions", account: Account, days: Days, start: dt.date, end: dt.date) -> None:
    span = [
        ("start_time", str(_midnight(start))),
        ("end_time", str(_midnight(end))),
        ("bucket_width", "1d"),
        ("limit", str(MOST_DAYS)),
        *(("project_ids[]", project) for project in account.projects),
    ]
    async for costs in ask.pages("/v1/organization/costs", [*span, ("group_by[]", "line_item")], _CostPage):
        for bucket in costs.data:
            day = _day(bucket.start_time)
            for cost in bucket.results:
                if day in days and cost.amount is not None:
                    spent = _picodollars(cost.amount.value, cost.amount.currency)
                    beside = cost.quantity_unit in OTHER_UNITS
                    days[day] = days[day].plus(other=spent) if beside else days[day].plus(picodollars=spent)
    for of in ("completions", "embeddings"):
        async for usage in ask.pages(f"/v1/organization/usage/{of}", span, _UsagePage):
            for counted in usage.data:
                day = _day(counted.start_time)
                for result in counted.results:
                    if day in days:
                        days[day] = days[day].plus(
                            input=_count(result.input_tokens), output=_count(result.output_tokens)
                        )


def _midnight(day: dt.date) -> int:
    return int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp())


def _day(seconds: int) -> dt.date:
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).date()
    except (ValueError, OverflowError, OSError) as error:
        message = f"a bucket that begins at {seconds}"
        raise _Malformed(message) from error


# Anthropic ------------------------------------------------------------------------------------------------------------


class _CostItem(msgspec.Struct):
    amount: str
    currency: str = "USD"
    cost_type: str | None = None
    workspace_id: str | None = None


class _CacheCreation(msgspec.Struct):
    ephemeral_1h_input_tokens: int = 0
    ephemeral_5m_input_tokens: int = 0


class _UsageItem(msgspec.Struct):
    uncached_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: _CacheCreation | None = None
    output_tokens: int = 0
    workspace_id: str | None = None


class _CostDay(msgspec.Struct):
    starting_at: dt.datetime
    results: list[_CostItem]


class _UsageDay(msgspec.Struct):
    starting_at: dt.datetime
    results: list[_UsageItem]


class _CostReport(msgspec.Struct):
    data: list[_CostDay]
    has_more: bool
    next_page: str | None = None


class _UsageReport(msgspec.Struct):
    data: list[_UsageDay]
    has_more: bool
    next_page: str | None = None


async def _anthropic(ask: "_Questions", account: Account, days: Days, start: dt.date, end: dt.date) -> None:
    span = [
        ("starting_at", f"{start}T00:00:00Z"),
        ("ending_at", f"{end}T00:00:00Z"),
        ("bucket_width", "1d"),
        ("limit", str(MOST_DAYS)),
        ("group_by[]", "workspace_id"),
    ]

    def ours(workspace: str | None) -> bool:
        return not account.projects or (workspace or "default") in account.projects

    async for costs in ask.pages("/v1/organizations/cost_report", [*span, ("group_by[]", "description")], _CostReport):
        for bucket in costs.data:
            day = bucket.starting_at.astimezone(dt.UTC).date()
            for item in bucket.results:
                if day in days and ours(item.workspace_id):
                    spent = _picodollars(_decimal(item.amount) / _CENTS, item.currency)
                    beside = item.cost_type not in {None, "tokens"}
                    days[day] = days[day].plus(other=spent) if beside else days[day].plus(picodollars=spent)
    async for usage in ask.pages("/v1/organizations/usage_report/messages", span, _UsageReport):
        for counted in usage.data:
            day = counted.starting_at.astimezone(dt.UTC).date()
            for found in counted.results:
                if day in days and ours(found.workspace_id):
                    written = found.cache_creation or _CacheCreation()
                    read_ = found.uncached_input_tokens + found.cache_read_input_tokens
                    stored = written.ephemeral_1h_input_tokens + written.ephemeral_5m_input_tokens
                    days[day] = days[day].plus(input=_count(read_ + stored), output=_count(found.output_tokens))


# Both -----------------------------------------------------------------------------------------------------------------


class _Malformed(Exception):  # noqa: N818 - becomes a ProviderError
    """An answer that cannot be meant."""


class _Questions:
    """Asks one provider; what goes wrong becomes a ProviderError that names the question and never the key."""

    def __init__(self, http: httpx.AsyncClient, account: Account, key: str) -> None:
        self._http = http
        self._account = account
        self._key = key
        auth = {"authorization": f"Bearer {key}"}
        if account.api == "Anthropic":
            auth = {"x-api-key": key, "anthropic-version": "2023-06-01"}
        self._headers = {**auth, "accept": "application/json", "user-agent": f"llmwarden/{__version__}"}

    async def pages(self, path: str, query: Sequence[tuple[str, str]], kind: type[Page]) -> AsyncIterator[Page]:
        """Give all pages. Ends by an error, not for ever, where a provider repeats a page's name."""
        seen: set[str] = set()
        more: list[tuple[str, str]] = []
        while True:
            answer = msgspec.json.decode(await self._get(path, [*query, *more]), type=kind)
            yield answer
            if not answer.has_more:
                return
            page = answer.next_page or ""
            if not page or page in seen or len(seen) >= MOST_PAGES:
                message = f"{path} has pages that do not end"
                raise _Malformed(message)
            seen.add(page)
            more = [("page", page)]

    async def _get(self, path: str, query: Sequence[tuple[str, str]]) -> bytes:
        what = f"{self._account.api} ({path})"
        try:
            async with self._http.stream(
                "GET", f"{self._account.base_url}{path}", params=list(query), headers=self._headers
            ) as response:
                body = await bounded.read(response.aiter_bytes(), LARGEST)
        except bounded.TooLongError:
            message = f"{what} answered more than {LARGEST} bytes"
            raise ProviderError(message, reason="Malformed") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = self._without_key(str(error)) or type(error).__name__
            message = f"{what} did not answer: {said}"
            raise ProviderError(message, reason="Unavailable") from None
        if response.status_code == httpx.codes.OK:
            return body
        said = self._without_key(_said(body))
        message = f"{what} answered {response.status_code}{f': {said}' if said else ''}"
        raise ProviderError(message, reason=_reason(response.status_code), retry_after=_retry_after(response.headers))

    def _without_key(self, text: str) -> str:
        return " ".join(text.replace(self._key, "***").split())[:LONGEST]


_REASONS: Final[Mapping[int, str]] = {401: "KeyRejected", 403: "Forbidden", 404: "NotFound", 429: "RateLimited"}
_SERVER_ERROR: Final = 500


def _reason(status: int) -> str:
    return _REASONS.get(status, "Unavailable" if status >= _SERVER_ERROR else "Refused")


class _ErrorBody(msgspec.Struct):
    error: dict[str, Any] = {}


def _said(body: bytes) -> str:
    """The sentence of an error, in the form that both providers have; "" where there is none."""
    try:
        return str(msgspec.json.decode(body, type=_ErrorBody).error.get("message") or "")
    except UNREADABLE:
        return ""


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds, of either form of the header; 0 where it is absent or is neither."""
    given = headers.get("retry-after", "")
    try:
        seconds = float(given)
    except ValueError:
        try:
            seconds = (email.utils.parsedate_to_datetime(given) - dt.datetime.now(dt.UTC)).total_seconds()
        except (ValueError, TypeError):
            seconds = 0.0
    return seconds if 0 <= seconds < float("inf") else 0.0


def _picodollars(value: Decimal, currency: str) -> int:
    if currency.lower() != "usd":
        message = f"an amount in {currency[:8]!r}, not in US dollars"
        raise _Malformed(message)
    if not value.is_finite() or abs(value) > MOST_DOLLARS:
        message = "an amount that is no amount of a day"
        raise _Malformed(message)
    return int((value * names.PICODOLLARS).to_integral_value(rounding=ROUND_HALF_EVEN))


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except DecimalException as error:
        message = f"{text[:24]!r} where an amount should be"
        raise _Malformed(message) from error


def _count(value: int) -> int:
    if not 0 <= value < MOST_TOKENS:
        message = "a number of tokens that is none"
        raise _Malformed(message)
    return value
