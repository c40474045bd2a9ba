"""`GET /v1/spend`: what was spent; `GET /v1/reconciliation`: providers' own figures beside it. For people and programs.

`ledger/http/openapi.py` describes both.
"""

import datetime as dt
import re
from collections.abc import Sequence
from typing import Final, Protocol

import anyio.to_thread
import msgspec
from starlette.responses import Response

from llmwarden import names
from llmwarden.contracts.reconciliation import Reconciliation
from llmwarden.contracts.spend import DIMENSIONS, By, GpuSpend, Spend, as_csv
from llmwarden.ledger.core import Core
from llmwarden.ledger.http import intake
from llmwarden.ledger.providers.reconciliation import MOST_DAYS as MOST_ACCOUNT_DAYS
from llmwarden.ledger.providers.reconciliation import SHOWN_DAYS, Reconciler
from llmwarden.ledger.rating import spend
from llmwarden.ledger.store import queries
from llmwarden.ledger.store.engine import Database
from llmwarden.serving import answers, auth
from llmwarden.serving.access import Access
from llmwarden.serving.answers import Refusal
from llmwarden.serving.auth import Caller
from llmwarden.serving.guard import Visit

MOST_DAYS: Final = 400
MOST_DIMENSIONS: Final = 5
MOST_ROWS: Final = 10_000
_AGO: Final = re.compile(r"([1-9][0-9]{0,4})(m|h|d|w)", re.ASCII)
_DAYS: Final = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class Stored(Protocol):
    """What this needs of the store."""

    database: Database


class SpendApi:
    """Answers what was spent to who may know it: the operator all, others by what they may list in the API server."""

    def __init__(
        self,
        core: Core,
        store: Stored,
        access: Access,
        *,
        namespace: str,
        accounts: Reconciler | None = None,
    ) -> None:
        """`namespace` is our own, whose operator may read all."""
        self._accounts = accounts
        self._core = core
        self._database = store.database
        self._access = access
        self._namespace = namespace

    async def spend(self, visit: Visit) -> Response:
        """GET /v1/spend."""
        query = visit.query
        start, end = self._span(query.get("from", "24h"), query.get("to", ""))
        by = _dimensions(query.get("by", "service"))
        form = query.get("format", "json")
        if form not in {"json", "csv"}:
            raise Refusal(400, "malformed", "give format=json or format=csv")
        own, _, service = query.get("service", "").rpartition("/")
        namespace = query.get("namespace", own)
        for name in (namespace, service):
            if name and not intake.NAME.fullmatch(name):
                raise Refusal(400, "malformed", "give service=NAMESPACE/NAME and namespace=NAMESPACE as they are named")
        await self._authorise(visit.who(), namespace)
        if own and own != namespace:
            raise Refusal(400, "malformed", "service=NAMESPACE/NAME is of another namespace than namespace=NAMESPACE")
        found = await self._read(start, end, by, namespace, service)
        if form == "csv":
            return Response(as_csv(found), media_type="text/csv; charset=utf-8")
        return answers.as_json(found)

    async def reconciliation(self, visit: Visit) -> Response:
        """GET /v1/reconciliation: an account is the whole organisation's, so only who may list ProviderAccounts sees it."""
        given = visit.query.get("days", str(SHOWN_DAYS))
        if not _DAYS.fullmatch(given) or int(given) > MOST_ACCOUNT_DAYS:
            raise Refusal(400, "malformed", f"give days=N, from 1 to {MOST_ACCOUNT_DAYS}")
        caller = visit.who()
        operator = auth.is_operator(caller, self._namespace)
        if not operator and not await self._access.may_list(caller, "", "provideraccounts"):
            account = f"{caller.namespace}:{caller.account}"
            message = f"service account {account} may not list provideraccounts, so it may not see what providers bill"
            raise Refusal(403, "forbidden", message)
        if self._accounts is None:
            return answers.as_json(Reconciliation(names.CONTRACT, self._core.clock(), {}))
        return answers.as_json(await self._accounts.answer(int(given)))

    async def _read(self, start: float, end: float, by: Sequence[By], namespace: str, service: str) -> Spend:
        span = queries.bucket_range(start, end)
        step = 3600 if "hour" in by else 86_400 if "day" in by else 0
        try:
            sums = await anyio.to_thread.run_sync(
                lambda: queries.read(
                    self._database,
                    *span,
                    step,
                    namespaces=[namespace] if namespace else None,
                    service=service,
                    pods="pod" in by,
                )
            )
        except queries.TooLargeError as error:
            raise Refusal(413, "too_large", str(error)) from error
        found = await spend.summarise(sums, by, span=span, rater=self._core.history.rater)
        if len(found.rows) > MOST_ROWS:
            message = (
                f"the answer has more than {MOST_ROWS} rows: ask by less, for a shorter time, or for one namespace"
            )
            raise Refusal(413, "too_large", message)
        return msgspec.structs.replace(found, gpu=self._gpus(span, namespace, service))

    def _gpus(self, span: tuple[int, int], namespace: str, service: str) -> tuple[GpuSpend, ...]:
        used = {
            name: usage
            for name in self._core.history.gpu.services()
            if namespace in {"", name.partition("/")[0]} and service in {"", name.partition("/")[2]}
            if (usage := self._core.history.gpu.usage(name, *span)) is not None and usage.milliseconds
        }
        return tuple(spend.gpu_spend(name, usage) for name, usage in used.items())

    async def _authorise(self, caller: Caller, namespace: str) -> None:
        if auth.is_operator(caller, self._namespace) or await self._access.may_list(caller, namespace):
            return
        account = f"{caller.namespace}:{caller.account}"
        where = f"in namespace {namespace}" if namespace else "in all namespaces"
        binding = (
            f"kubectl create rolebinding {names.ROLE_VIEW} --clusterrole={names.ROLE_VIEW} --serviceaccount={account} -n {namespace}"
            if namespace
            else f"kubectl create clusterrolebinding {names.ROLE_VIEW} --clusterrole={names.ROLE_VIEW} --serviceaccount={account}"
        )
        message = f"service account {account} may not list llmservices {where}, so it may not see their spend. To allow it: {binding}"
        raise Refusal(403, "forbidden", message)

    def _span(self, start: str, end: str) -> tuple[float, float]:
        now = self._core.clock()
        last = instant(end, "to", now) if end else now
        first = instant(start, "from", now)
        if not first < last:
            raise Refusal(400, "malformed", "from must be before to")
        if last - first > dt.timedelta(days=MOST_DAYS):
            raise Refusal(400, "malformed", f"ask for at most {MOST_DAYS} days at a time")
        return first.timestamp(), last.timestamp()


def instant(text: str, name: str, now: dt.datetime) -> dt.datetime:
    """Read an instant, or how long ago one was, of the parameter `name`. Raises Refusal."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now - dt.timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or not 2000 <= found.year <= 9000:  # noqa: PLR2004 - what a calendar of use has
        raise Refusal(
            400,
            "malformed",
            f"{name} is {text[:40]!r}; write an instant such as 2026-11-20T00:00:00Z, or how long ago: 90m, 24h, 7d, 4w",
        )
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def _dimensions(text: str) -> tuple[By, ...]:
    asked = [part for part in text.split(",") if part]
    by = tuple(dimension for part in asked for dimension in DIMENSIONS if dimension == part)
    if not asked or len(by) != len(asked) or len(set(by)) != len(by) or len(by) > MOST_DIMENSIONS:
        message = f"give by=A,B: 1 to {MOST_DIMENSIONS} different ones of {', '.join(DIMENSIONS)}"
        raise Refusal(400, "malformed", message)
    return by
