"""`POST /v1/corrections`: the platform writes off usage, or releases what is quarantined. `GET /v1/corrections`: what it has done so.

Who may do it is RBAC's to say: the verbs `writeoff` and `release` on llmservices, in all namespaces. (A right in one namespace is a tenant's.)
"""

import datetime as dt
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import anyio.to_thread
import msgspec
from starlette.responses import Response

from llmwarden import names
from llmwarden.contracts.correction import Correction, Corrections, Order
from llmwarden.domain import money
from llmwarden.errors import UNREADABLE, ConflictError
from llmwarden.ledger.core import Core
from llmwarden.ledger.http import intake
from llmwarden.ledger.rating.rater import LateKey, Rating
from llmwarden.ledger.store import Delta, counts, issued_of
from llmwarden.ledger.store.corrections import Fraction, Selection, TooLargeError, read
from llmwarden.ledger.store.engine import Database
from llmwarden.ledger.writer import Writer
from llmwarden.names import BUCKET_SECONDS
from llmwarden.serving import answers, auth
from llmwarden.serving.access import Access
from llmwarden.serving.answers import Refusal
from llmwarden.serving.auth import Caller
from llmwarden.serving.guard import Visit

logger = logging.getLogger(__name__)

MAX_BODY: Final = 16 * 1024
SHOWN: Final = 500  # orders of one answer
LONGEST_REASON: Final = 500
_ID: Final = re.compile(r"[A-Za-z0-9-]{8,64}", re.ASCII)
_VERBS: Final = {"WriteOff": names.VERB_WRITE_OFF, "Release": names.VERB_RELEASE}


class CorrectionApi:
    """See the module."""

    def __init__(
        self,
        core: Core,
        database: Database,
        writer: Writer,
        access: Access,
        *,
        namespace: str,
        corrected: Callable[[Correction], None] = lambda _: None,
    ) -> None:
        """`namespace` is our own, whose operator may read all. `corrected` is told of each order that was done."""
        self._core = core
        self._database = database
        self._writer = writer
        self._access = access
        self._namespace = namespace
        self._corrected = corrected

    async def correct(self, visit: Visit) -> Response:
        """POST /v1/corrections."""
        order = _order(visit.body)
        caller = visit.who()
        await self._authorise(caller, _VERBS[order.action])
        selection = _selection(order)
        by = f"{caller.namespace}:{caller.account}"
        now = self._core.clock()
        try:
            answer, repeated = await self._writer.correct(
                order, selection, Decider(self._core, order, by, now), int(now.timestamp())
            )
        except TooLargeError as error:
            raise Refusal(413, "too_large", str(error)) from error
        except ConflictError as error:
            raise Refusal(409, "conflict", str(error)) from error
        done = msgspec.structs.replace(msgspec.json.decode(answer, type=Correction), repeated=repeated)
        if not repeated and not order.dry_run:
            self._corrected(done)
            logger.warning(
                "%s of %s (on behalf of %r) for %s: %s, %d tokens. Reason: %r",
                order.action, by, order.on_behalf_of, order.service, money.human(done.picodollars),
                done.tokens.input + done.tokens.output, order.reason,
            )  # fmt: skip
        return answers.as_json(done)

    async def corrections(self, visit: Visit) -> Response:
        """GET /v1/corrections: to who may see the spending."""
        namespace = visit.query.get("namespace", "")
        if namespace and not intake.NAME.fullmatch(namespace):
            raise Refusal(400, "malformed", "give namespace=NAMESPACE as it is named")
        caller = visit.who()
        if not auth.is_operator(caller, self._namespace) and not await self._access.may_list(caller, namespace):
            where = f"in namespace {namespace}" if namespace else "in all namespaces"
            message = f"service account {caller.namespace}:{caller.account} may not list llmservices {where}"
            raise Refusal(403, "forbidden", message)
        found = await anyio.to_thread.run_sync(lambda: read(self._database, namespace, SHOWN))
        return answers.as_json(Corrections(tuple(msgspec.json.decode(one.answer, type=Correction) for one in found)))

    async def _authorise(self, caller: Caller, verb: str) -> None:
        if await self._access.may(caller, verb):
            return
        message = (
            f"service account {caller.namespace}:{caller.account} may not {verb} llmservices in all namespaces. "
            f"The chart's {names.CORRECTOR} may: kubectl llm makes a token for it, if you may create one"
        )
        raise Refusal(403, "forbidden", message)


class Decider:
    """Knows what usage costs. Asked in the event loop."""

    def __init__(self, core: Core, order: Order, by: str, now: dt.datetime) -> None:
        self._rater = core.history.rater
        self._order = order
        self._by = by
        self._now = now

    def fraction(self, there: Sequence[Delta]) -> Fraction:
        """See `store.corrections.Decider`."""
        wanted, whole = 1, 1
        if self._order.tokens is not None:
            wanted, whole = self._order.tokens, sum(one.counts.budgeted_tokens for one in there)
        elif self._order.picodollars is not None:
            wanted, whole = self._order.picodollars, self._picodollars(there)
        return Fraction(min(wanted, whole), max(whole, 1))

    def answer(self, moved: Sequence[Delta]) -> str:
        """See `store.corrections.Decider`."""
        total = counts.ZERO
        for one in moved:
            total = counts.add(total, one.counts)
        picodollars = self._picodollars(moved)
        done = Correction(
            order=self._order,
            at=self._now,
            by=self._by,
            requests=total.requests,
            tokens=total.tokens,
            picodollars=picodollars,
            usd=money.to_decimal(picodollars),
            uncosted_tokens=sum(self._rating(one).uncosted(one.counts) for one in moved),
        )
        return msgspec.json.encode(done).decode()

    def _picodollars(self, of: Iterable[Delta]) -> int:
        return sum(self._rating(one).picodollars(one.counts) for one in of)

    def _rating(self, one: Delta) -> Rating:
        key = LateKey(one.provider, one.model, one.bucket, one.context, one.tier)
        return self._rater.rating(one.service, issued_of(one), key)


def _order(raw: bytes) -> Order:
    try:
        order = msgspec.json.decode(raw, type=Order)
    except UNREADABLE as error:
        raise Refusal(400, "malformed", f"the order does not match the contract: {error}") from error
    if order.contract != names.CONTRACT:
        message = f"this ledger speaks contract {names.CONTRACT}, not {order.contract}"
        raise Refusal(409, "unsupported_contract", message)
    return order


def _selection(order: Order) -> Selection:
    """Raise a Refusal that says what to give instead where the order cannot be meant."""
    namespace, _, service = order.service.partition("/")
    named = intake.NAME.fullmatch(namespace) and intake.NAME.fullmatch(service)
    texts = (order.reason, order.model, order.pod, order.on_behalf_of)
    faults = {
        "id has 8 to 64 letters, digits or hyphens": not _ID.fullmatch(order.id),
        "service is NAMESPACE/NAME": not named,
        "reason says why, in at most 500 characters": not 0 < len(order.reason.strip()) <= LONGEST_REASON,
        "model, pod and onBehalfOf have at most 256 characters": max(map(len, texts[1:])) > intake.LONGEST,
        "no text has a zero byte": any("\0" in text for text in texts),
        "from and to are instants with a time zone": order.start.tzinfo is None or order.end.tzinfo is None,
        "picodollars and tokens are above zero, and one of them at most": (
            order.picodollars is not None and order.tokens is not None
        )
        or any(amount is not None and amount <= 0 for amount in (order.picodollars, order.tokens)),
        "a release has no amount: it is of all that is quarantined": order.action == "Release"
        and (order.picodollars, order.tokens) != (None, None),
    }
    wrong = [sentence for sentence, fault in faults.items() if fault]
    if wrong:
        raise Refusal(400, "malformed", "; ".join(wrong))
    start = int(order.start.timestamp()) // BUCKET_SECONDS * BUCKET_SECONDS
    end = int(order.end.timestamp())
    if not start < end:
        raise Refusal(400, "malformed", "from must be before to")
    return Selection(namespace, service, start, end, order.model, order.pod, order.quarantined_only)
