"""`GET /v1/audit`: what happened, for those who may `list` the virtual resource `audit` of our API group; and who is refused, for the trail."""

import datetime as dt
import re
from typing import Final

import anyio.to_thread
from starlette.responses import Response

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.contracts.audit import KINDS, Audit, Kind
from llmwarden.contracts.correction import Correction
from llmwarden.ledger.audit import Trail
from llmwarden.ledger.http import intake
from llmwarden.ledger.http.query_api import instant
from llmwarden.ledger.store import audit as table
from llmwarden.ledger.store.engine import Database
from llmwarden.serving import answers, auth
from llmwarden.serving.access import Access
from llmwarden.serving.answers import Refusal
from llmwarden.serving.auth import Caller
from llmwarden.serving.guard import Visit

MOST: Final = 10_000
DEFAULT: Final = 1000
_LIMIT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_TOLD: Final = frozenset({401, 403})  # refusals that say something of the caller


class AuditApi:
    """Answers what happened. `namespace` is our own, whose operator may read all."""

    def __init__(self, trail: Trail, database: Database, access: Access, *, namespace: str) -> None:
        self._trail = trail
        self._database = database
        self._access = access
        self._namespace = namespace

    def refused(self, path: str, refusal: Refusal, caller: Caller | None) -> None:
        """Record a caller that was not let in (`serving.guard.Refused`)."""
        if refusal.status not in _TOLD:
            return
        by = f"{caller.namespace}:{caller.account}" if caller is not None else ""
        pod = f"Pod/{caller.namespace}/{caller.pod_name}" if caller is not None and caller.pod_name else ""
        namespace = caller.namespace if caller is not None else ""
        self._trail.record("Refused", f"{path}: {refusal.message}", namespace=namespace, about=pod, by=by)

    def quarantined(self, pod: wire.PodRef) -> None:
        """Record a pod whose report had rows that are implausible."""
        text = "reported more than one pod can plausibly use: the rows count in no ClusterLLMBudget until they are released"
        about = f"Pod/{pod.namespace}/{pod.name}"
        self._trail.record("Quarantined", text, namespace=pod.namespace, about=about)

    def corrected(self, done: Correction) -> None:
        """Record a write-off or a release."""
        order = done.order
        kind: Kind = "WrittenOff" if order.action == "WriteOff" else "Released"
        behalf = f" on behalf of {order.on_behalf_of}" if order.on_behalf_of else ""
        tokens = done.tokens.input + done.tokens.output
        text = f"{tokens} tokens of {done.usd} dollars{behalf}: {order.reason}"
        namespace = order.service.partition("/")[0]
        about = f"LLMService/{order.service}"
        self._trail.record(kind, text, namespace=namespace, about=about, by=done.by, mark=order.id)

    async def audit(self, visit: Visit) -> Response:
        """GET /v1/audit."""
        query = visit.query
        namespace, kind, limit = query.get("namespace", ""), query.get("kind", ""), query.get("limit", str(DEFAULT))
        if namespace and not intake.NAME.fullmatch(namespace):
            raise Refusal(400, "malformed", "give namespace=NAMESPACE as it is named")
        if kind and kind not in KINDS:
            raise Refusal(400, "malformed", f"give kind=KIND, one of {', '.join(KINDS)}")
        if not _LIMIT.fullmatch(limit) or int(limit) > MOST:
            raise Refusal(400, "malformed", f"give limit=N, from 1 to {MOST}")
        now = self._trail.clock()
        start = instant(query.get("from", "24h"), "from", now)
        end = instant(query["to"], "to", now) if query.get("to") else now + dt.timedelta(seconds=1)
        await self._authorise(visit.who(), namespace)
        return answers.as_json(await self._read(start, end, namespace, kind, int(limit)))

    async def _read(self, start: dt.datetime, end: dt.datetime, namespace: str, kind: str, most: int) -> Audit:
        waiting = [
            entry
            for entry in reversed(self._trail.pending())
            if start <= entry.at < end and namespace in {"", entry.namespace} and kind in {"", entry.kind}
        ]
        written, more = await anyio.to_thread.run_sync(
            lambda: table.read(
                self._database, start, end, namespace=namespace or None, kinds=[kind] if kind else [], most=most
            )
        )
        entries = sorted((*waiting, *written), key=lambda entry: entry.at, reverse=True)
        return Audit(names.CONTRACT, tuple(entries[:most]), more or len(entries) > most)

    async def _authorise(self, caller: Caller, namespace: str) -> None:
        if auth.is_operator(caller, self._namespace):
            return
        if await self._access.may_list(caller, namespace, names.RESOURCE_AUDIT):
            return
        account = f"{caller.namespace}:{caller.account}"
        where = f"in namespace {namespace}" if namespace else "in all namespaces"
        message = (
            f"service account {account} may not list {names.RESOURCE_AUDIT}.{names.GROUP} {where}, so it may not see the audit. "
            f"The ClusterRole {names.ROLE_AUDIT} allows it: bind it to the account"
        )
        raise Refusal(403, "forbidden", message)
