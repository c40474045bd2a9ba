"""The ledger contract over HTTP (`llmwarden.contracts.ledger`): the table of endpoints, and the requests of proxies and the operator.

Refusals: 400 malformed, 401 no or bad token, 403 not yours, 404, 408 a body that does not come, 409 unsupported_contract, 413 too large,
503 with Retry-After when we cannot know yet (not synced, API server or disk does not answer).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.contracts.correction import CORRECTIONS_PATH
from llmwarden.errors import UNREADABLE
from llmwarden.ledger.core import Core
from llmwarden.ledger.http import ages, intake, openapi, reporters
from llmwarden.ledger.http.audit_api import AuditApi
from llmwarden.ledger.http.correction_api import MAX_BODY as MAX_ORDER_BODY
from llmwarden.ledger.http.correction_api import CorrectionApi
from llmwarden.ledger.http.gpu_api import MAX_BODY as MAX_GPU_BODY
from llmwarden.ledger.http.gpu_api import GpuApi
from llmwarden.ledger.http.query_api import SpendApi
from llmwarden.ledger.http.reporters import Reporters
from llmwarden.ledger.metrics import Metrics
from llmwarden.ledger.pods import Pods
from llmwarden.ledger.store import Issued, PriceRecord, issued_of
from llmwarden.ledger.writer import Writer
from llmwarden.serving import answers, auth
from llmwarden.serving.answers import Refusal
from llmwarden.serving.auth import Authenticator, Caller
from llmwarden.serving.guard import Endpoint, Guard, Visit, probe
from llmwarden.serving.spans import traced

logger = logging.getLogger(__name__)

MAX_BODY: Final = 1024 * 1024  # bytes
MAX_WAIT: Final = 60.0  # seconds of a long poll
MAX_SERVICES: Final = 64  # in one request: a pod has a few
MAX_ROWS: Final = 10_000
# Models come from outside, and some names in the public table are patterns. Beyond so many, rows are rated as if without
# an id: by the price at their bucket's start, which is the same but for an edit in between.
MOST_ISSUED: Final = 100_000
_TOO_LARGE: Final = f"a report has at most {MAX_BODY} bytes: send fewer rows at a time"
_TOO_MANY_PODS: Final = f"a report has at most {MAX_GPU_BODY} bytes: send fewer pods at a time"
LONGEST: Final = 256  # characters of a model in a question, or of a journal's name


class _Versioned(msgspec.Struct):
    contract: int


_reports = msgspec.json.Decoder(wire.Report)
_versions = msgspec.json.Decoder(_Versioned)


def create_app(
    core: Core,
    writer: Writer,
    authenticator: Authenticator,
    pods: Pods,
    metrics: Metrics,
    *,
    namespace: str,
    ready: Callable[[], str | None],
    stopping: asyncio.Event,
    questions: SpendApi | None = None,
    holdings: GpuApi | None = None,
    audit: AuditApi | None = None,
    corrections: CorrectionApi | None = None,
) -> ASGIApp:
    """Make the ASGI app. `namespace` is our own (whose operator may read all); `stopping` ends long polls at once.

    `questions` answers what people ask, `holdings` takes which pods have GPUs, `audit` is told who is refused and answers what happened,
    `corrections` takes the platform's orders; without them there is the proxies' contract alone.
    """
    who = Reporters(pods, core.knows, lambda: core.synced)
    quarantined = audit.quarantined if audit is not None else lambda _: None
    api = Api(core, writer, who, metrics, namespace=namespace, stopping=stopping, quarantined=quarantined)
    table = endpoints(api, ready, questions, holdings, audit, corrections=corrections)

    def unsynced() -> str | None:
        return None if core.synced else "the ledger has not yet read the cluster's LLMServices and prices"

    refused = audit.refused if audit is not None else lambda *_: None
    guard = Guard(authenticator, unsynced=unsynced, answered=metrics.answered, refused=refused)
    app = guard.application(table)
    return traced(app, {endpoint.path for endpoint in table})


def endpoints(
    api: "Api",
    ready: Callable[[], str | None],
    questions: SpendApi | None,
    holdings: GpuApi | None,
    audit: AuditApi | None = None,
    *,
    corrections: CorrectionApi | None = None,
) -> tuple[Endpoint, ...]:
    """List every endpoint of the ledger: its routes, its metrics' path labels and its OpenAPI description follow from this table."""
    # Reports of usage and of GPUs are taken before we have read the cluster: what was used must not be lost.
    table = [
        Endpoint("GET", "/v1/config", api.config, synced=True),
        Endpoint("GET", "/v1/price", api.price, synced=True),
        Endpoint("POST", wire.REPORT_PATH, api.report, body=MAX_BODY, too_large=_TOO_LARGE),
        Endpoint("GET", "/v1/usage", api.usage, synced=True),
        Endpoint("GET", "/livez", probe(lambda: None), token=False),
        Endpoint("GET", "/readyz", probe(ready), token=False),
    ]
    if holdings is not None:
        table.append(Endpoint("POST", "/v1/gpus", holdings.gpus, body=MAX_GPU_BODY, too_large=_TOO_MANY_PODS))
    if audit is not None:
        asked = Endpoint("GET", "/v1/audit", audit.audit, token_header=names.HEADER_TOKEN, operation=openapi.AUDIT)
        table.append(asked)
    if corrections is not None:
        for method, handler, operation, body in (
            ("POST", corrections.correct, openapi.CORRECT, MAX_ORDER_BODY),
            ("GET", corrections.corrections, openapi.CORRECTIONS, 0),
        ):
            table.append(
                Endpoint(
                    method, CORRECTIONS_PATH, handler, token_header=names.HEADER_TOKEN, synced=True, body=body,
                    too_large=f"an order has at most {MAX_ORDER_BODY} bytes", operation=operation,
                )
            )  # fmt: skip
    if questions is not None:

        async def described(_: Visit) -> Response:
            return answers.as_json(openapi.description(table))

        table += [
            Endpoint(
                "GET",
                "/v1/spend",
                questions.spend,
                token_header=names.HEADER_TOKEN,
                synced=True,
                operation=openapi.SPEND,
            ),
            Endpoint(
                "GET",
                "/v1/reconciliation",
                questions.reconciliation,
                token_header=names.HEADER_TOKEN,
                synced=True,
                operation=openapi.RECONCILIATION,
            ),
            Endpoint("GET", "/openapi.json", described, token=False),
        ]
    return tuple(table)


class Api:
    """The contract's four requests."""

    def __init__(
        self,
        core: Core,
        writer: Writer,
        who: Reporters,
        metrics: Metrics,
        *,
        namespace: str,
        stopping: asyncio.Event,
        quarantined: Callable[[wire.PodRef], None],
    ) -> None:
        self._core = core
        self._writer = writer
        self._who = who
        self._metrics = metrics
        self._namespace = namespace
        self._stopping = stopping
        self._quarantined = quarantined

    async def config(self, visit: Visit) -> Response:
        """GET /v1/config."""
        caller, namespace = self._proxy(visit)
        services = _services(visit)
        if caller.pod_uid:
            await self._who.asking(caller, services)
        wait = _seconds(visit, "wait", MAX_WAIT)
        known = visit.query.get("generation", "")
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            if caller.pod_uid:
                asked = [key for name in services if self._core.view.find(key := f"{namespace}/{name}")]
                self._core.usage.presence.seen(asked, caller.pod_uid, self._core.clock().timestamp())
            current = self._core.configuration.generation(namespace)
            if current != known:
                return answers.as_json(self._core.configuration.config(namespace, services))
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or self._stopping.is_set():
                return Response(status_code=304)
            with self._metrics.long_polls.track_inprogress():
                await self._core.configuration.changed(namespace, left)

    async def price(self, visit: Visit) -> Response:
        """GET /v1/price."""
        caller, namespace = self._proxy(visit)
        service, model = visit.query.get("service", ""), visit.query.get("model", "")
        if not intake.NAME.fullmatch(service):
            raise Refusal(400, "malformed", "give service=NAME, the name of an LLMService")
        if not model or len(model) > LONGEST:
            raise Refusal(400, "malformed", f"give model=MODEL, of at most {LONGEST} characters")
        if caller.pod_uid:
            await self._who.asking(caller, [service])
        core = self._core
        known = core.view.find(f"{namespace}/{service}")
        generation = core.configuration.price_generation(f"{namespace}/{service}")
        provisional = core.history.provisional_price(f"{namespace}/{service}", model)
        if provisional is not None:
            return answers.as_json(
                wire.Price(contract=names.CONTRACT, picodollars=provisional, provisional=True, generation=generation)
            )
        found, until = core.history.price(f"{namespace}/{service}", model)
        window = core.history.catalogue.window(known.provider, model) if known is not None else 0
        if known is None or found is None:
            return answers.as_json(
                wire.Price(contract=names.CONTRACT, window=window, valid_until=until, generation=generation)
            )
        issued = Issued(known.provider, model, found.price_id)
        if (
            issued not in core.history.prices
            and len(core.history.prices) < MOST_ISSUED
            and self._who.may_record_price(namespace)
        ):
            # First on the disk, then handed out: a row must always find its price again.
            await self._writer.record_price(PriceRecord(issued, found.rates), int(core.clock().timestamp()))
            core.remember(issued, found.rates)
        return answers.as_json(
            wire.Price(
                contract=names.CONTRACT,
                price_id=found.price_id,
                picodollars=found.price,
                variants=found.rates.variants,
                window=window,
                valid_until=found.valid_until,
                generation=generation,
            )
        )

    async def report(self, visit: Visit) -> Response:
        """POST /v1/report."""
        return answers.as_json(await self._report(visit))

    async def usage(self, visit: Visit) -> Response:
        """GET /v1/usage."""
        _contract(visit)
        if not auth.is_operator(visit.who(), self._namespace):
            raise Refusal(403, "forbidden", f"only the service account {names.OPERATOR} may read all usage")
        return answers.as_json(await self._core.usage.usage())

    # Inside -----------------------------------------------------------------------------------------------------------

    async def _report(self, visit: Visit) -> wire.ReportAnswer:
        report = _report(visit.body)
        now = self._core.clock().timestamp()
        _check(report)
        pod = report.pod
        if not auth.is_pod(visit.who(), pod.namespace, pod.name, pod.uid):
            raise Refusal(403, "forbidden", "the token is not bound to the pod that the report names")
        injected = await self._who.reporting(visit.who(), now)
        report, strange = reporters.own(report, injected.services)
        report, odd = intake.take(report, now, self._may_report(pod.namespace))
        odd[reporters.NOT_INJECTED] += strange
        report, odd[ages.REASON] = ages.take(report, int(injected.created))
        own = [f"{pod.namespace}/{name}" for name in injected.services]
        report = self._core.standings.desk.take(report, lambda key: self._core.standings.may_lease(key, own))
        for reason, count in (+odd).items():
            logger.warning("report of pod %s/%s: %d rows were odd (%s)", pod.namespace, pod.name, count, reason)
            self._metrics.odd_rows.labels(reason).inc(count)
        with self._who.under_way(report):
            merged, leases = await self._writer.report(report, int(now), int(injected.created))
        core = self._core
        self._metrics.rows.inc(len(report.rows))
        self._metrics.backwards.inc(merged.backwards)
        self._metrics.odd_rows.labels("folded").inc(merged.folded)
        self._metrics.folded(pod.namespace, merged.others, merged.unremembered)
        self._metrics.quarantined(pod.namespace, pod.name, merged.quarantined)
        if merged.quarantined:
            self._quarantined(pod)
        services = {f"{pod.namespace}/{row.service}" for row in report.rows}
        if core.synced:
            # It may just have been deleted; what it used was used all the same.
            self._metrics.unknown_service_rows.inc(
                sum(core.view.find(f"{pod.namespace}/{row.service}") is None for row in report.rows)
            )
        self._metrics.unknown_price_rows.inc(
            sum((issued := issued_of(row)) is not None and issued not in core.history.prices for row in report.rows)
        )
        services |= core.usage.presence.by_pod.get(pod.uid, set())
        return wire.ReportAnswer(
            contract=names.CONTRACT,
            accepted=len(report.rows),
            generation=core.configuration.generation(pod.namespace) if core.synced else "",
            budgets=core.standings.budget_updates(services),
            leases=leases,
            now=core.clock(),
            report_interval_seconds=core.interval(services),
        )

    def _may_report(self, namespace: str) -> Callable[[str], bool]:
        """Return what says whether to take a service's rows. Before the cluster is read, all are taken: any may exist."""
        core = self._core
        return lambda name: not core.synced or core.knows(f"{namespace}/{name}")

    def _proxy(self, visit: Visit) -> tuple[Caller, str]:
        """Return the caller and the namespace that it asks about: a pod's own, or the one that the operator names."""
        caller = visit.who()
        _contract(visit)
        if auth.is_operator(caller, self._namespace):
            return caller, visit.query.get("namespace", self._namespace)
        if not caller.pod_uid:
            raise Refusal(403, "forbidden", "the token is not bound to a pod")
        return caller, caller.namespace


def _contract(visit: Visit) -> None:
    given = visit.query.get("contract", "")
    if not given.isascii() or not given.isdigit():
        raise Refusal(400, "malformed", f"give contract={names.CONTRACT}")
    _check_version(int(given[:9]))


def _unsupported(version: int) -> Refusal:
    message = f"this ledger speaks contract {names.CONTRACT}, not {version}"
    return Refusal(409, "unsupported_contract", message)


def _services(visit: Visit) -> list[str]:
    given = [name for name in visit.query.get("services", "").split(",") if name]
    if not given or len(given) > MAX_SERVICES or not all(intake.NAME.fullmatch(name) for name in given):
        raise Refusal(400, "malformed", f"give services=A,B: 1 to {MAX_SERVICES} names of LLMServices")
    return list(dict.fromkeys(given))


def _seconds(visit: Visit, name: str, most: float) -> float:
    raw = visit.query.get(name, "0")
    try:
        value = float(raw)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):  # NaN is neither
        raise Refusal(400, "malformed", f"{name} is {raw[:40]!r}, not a number of seconds")
    return min(value, most)


def _report(raw: bytes) -> wire.Report:
    try:
        report = _reports.decode(raw)
    except UNREADABLE as error:
        # The version before the shape: another version's report need not have ours.
        with contextlib.suppress(*UNREADABLE):
            _check_version(_versions.decode(raw).contract)
        raise Refusal(400, "malformed", f"the report does not match the contract: {error}") from error
    _check_version(report.contract)
    return report


def _check_version(version: int) -> None:
    if version != names.CONTRACT:
        raise _unsupported(version)


def _check(report: wire.Report) -> None:
    """Raise a Refusal if a report's fields are out of range. `intake` checks its rows."""
    named = 0 < len(report.journal) <= LONGEST and "\0" not in report.journal
    if not named or report.sequence < 0 or report.sequence >= 2**63:
        raise Refusal(400, "malformed", "journal or sequence is out of range")
    if len(report.rows) > MAX_ROWS:
        raise Refusal(400, "malformed", f"a report has at most {MAX_ROWS} rows")
