"""Whether a call may be made: its request is read (`inquire`), then the gate is asked (`admit`).

What bounds a call's usage from above stands in the request: its output by `max_tokens` x `choices`, unless `max_tokens` is None; its input by
the body's length (no tokenizer makes more than one token of a byte, and the JSON around a text outweighs the tokens around a message). Neither
holds where `Asked.unbounded` says why not.

`Inquiry`, `Admitted` and `Refused` are frozen: mypy refuses to assign to a `Final` attribute, and a compiled one is not writable. They are no
structs because compiled code reads an attribute of a class of ours at no cost.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final

from llmwarden import names
from llmwarden.contracts.ledger import Labels
from llmwarden.proxy.calls import estimate
from llmwarden.proxy.calls.route import Opened
from llmwarden.proxy.dialects.base import Asked
from llmwarden.proxy.money import refusals
from llmwarden.proxy.money.gate import Allowed, Bound, Denied, NeedsPrice, Outcome, Reservations, Short
from llmwarden.proxy.seam import Forward, Refusal, Request
from llmwarden.proxy.telemetry.trace import Trace

_NOTHING_ASKED: Final = Asked()
_NO_PROMPT: Final = estimate.Prompt()
_LEASE_SECONDS: Final = 2.0  # a call waits for a lease no longer
_CONFIG_SECONDS: Final = 2.0  # and for the first configuration
_UNREADY: Final = 503  # SDKs try again
_ENCODED: Final = "LLM Warden: the budget is used up, and the request is too large or encoded, so its model cannot be changed to the fallback"


class Inquiry:
    """What one request asks for, before the gate has decided."""

    __slots__ = (
        "asked",
        "body_bytes",
        "labels",
        "model",
        "opened",
        "prompt",
        "readable",
        "retry",
        "started",
        "target",
        "trace",
    )

    def __init__(  # noqa: PLR0917 - once per call: keywords would cost
        self,
        opened: Opened,
        request: Request,
        trace: Trace,
        asked: Asked = _NOTHING_ASKED,
        model: str = "",
        body_bytes: int = 0,
        prompt: estimate.Prompt = _NO_PROMPT,
        retry: str = "",
        labels: Labels | None = None,
        *,
        readable: bool = True,
    ) -> None:
        self.opened: Final = opened
        self.started: Final = request.started
        self.target: Final = request.target  # as it came: a fallback may change the request's
        self.trace: Final = trace
        self.asked: Final = asked
        self.model: Final = model
        self.body_bytes: Final = body_bytes
        self.prompt: Final = prompt
        self.retry: Final = retry  # why it counts as a retry; "" where it does not
        self.labels: Final = labels if labels is not None else opened.labels
        self.readable: Final = readable  # the body is here, and its dialect can read it

    def body_key(self) -> int:
        """Identifies the body in this process, whatever its size; needed only once calls fail."""
        return _body_key(self.target, self.body_bytes, self.prompt)

    # The gate's two questions.

    def has_price(self, model: str) -> bool | None:
        """Whether the model has a price; None while the ledger has not told."""
        opened = self.opened
        return opened.route.tariff.has_price(model, alias=opened.alias)

    def bound(self, model: str) -> Bound:
        """What the call can use at most if it is made by this model; see the module."""
        opened, asked = self.opened, self.asked
        limits = opened.route.shared.limits
        quote = opened.route.tariff.last(model, alias=opened.alias)
        window = quote.window if quote is not None else 0
        tokens_in, tokens_out = self.body_bytes, 0
        if asked.unbounded:
            tokens_in = _capped(limits.unbounded_input_tokens, window)
            if not tokens_in:
                return Bound(None, 0, unbounded=asked.unbounded)
        if asked.max_tokens is not None:
            tokens_out = max(asked.max_tokens, 0) * asked.choices
        elif opened.operation != "embeddings":
            tokens_out = _capped(limits.unbounded_output_tokens, window) * asked.choices
            if not tokens_out:
                return Bound(None, 0, unbounded="no max_tokens")
        picodollars = quote.at_most(tokens_in, tokens_out) if quote is not None else None
        return Bound(picodollars, tokens_in + tokens_out, capped=bool(asked.unbounded) or asked.max_tokens is None)


class Admitted:
    """A call that may be made."""

    __slots__ = ("adds_usage", "budget", "fallback", "inquiry", "model", "reservations")

    def __init__(self, inquiry: Inquiry, allowed: Allowed) -> None:
        asked = inquiry.asked
        self.inquiry: Final = inquiry
        self.fallback: Final = allowed.fallback
        self.model: Final = inquiry.model if allowed.fallback is None else allowed.fallback  # as sent upstream
        self.budget: Final = "" if allowed.fallback is None else allowed.budget  # that changed the model
        self.reservations: Final[Reservations] = allowed.reservations
        # We ask for usage that the client did not ask for, and so must hide it from the client.
        self.adds_usage: Final = (
            inquiry.readable and asked.stream and not asked.wants_usage and inquiry.opened.match.takes_usage
        )

    def forward(self, body: bytes | None) -> Forward:
        """What goes upstream in place of the request."""
        inquiry, fallback = self.inquiry, self.fallback
        if body is None or not inquiry.readable or not (self.adds_usage or fallback is not None):
            return Forward(body)
        api = inquiry.opened.match.api
        body = api.write_request(body, inquiry.asked, model=fallback, usage=self.adds_usage)
        if fallback is None:
            return Forward(body)
        headers = ((names.HEADER_FALLBACK, fallback.encode()),)
        return Forward(body, headers, api.write_target(inquiry.target, fallback))


class Refused:
    """A call that a budget refuses."""

    __slots__ = ("answer", "denied", "inquiry")

    def __init__(self, inquiry: Inquiry, denied: Denied, answer: Refusal) -> None:
        self.inquiry: Final = inquiry
        self.denied: Final = denied
        self.answer: Final = answer


Admission = Admitted | Refused
FREE: Final = Allowed()  # for a call that does not pass the gate


def inquire(opened: Opened, request: Request, trace: Trace, body: bytes | None) -> Inquiry:
    """Read a request. `body` is None where it is too large to hold, or cannot be read (a content encoding)."""
    match = opened.match
    asked = match.api.read_request(body, match) if body is not None else None
    body_bytes = len(body) if body is not None else request.length or 0
    readable = asked is not None
    if asked is None:
        # Encoded or not, only its length can be read.
        asked = Asked(model=match.model, unbounded="unreadable", input_bytes=body_bytes)
        prompt = estimate.Prompt((body or b"")[: estimate.SAMPLE])
    else:
        prompt = estimate.prompt(body or b"", asked.input_bytes)
    retries = opened.route.shared.retries
    retry = retries.seen(opened.headers)
    if (
        retries.expected()
        and not retry
        and retries.came_again(_body_key(request.target, body_bytes, prompt), request.started)
    ):
        retry = "body"
    return Inquiry(opened, request, trace, asked, asked.model, body_bytes, prompt, retry, readable=readable)


def _body_key(target: bytes, size: int, prompt: estimate.Prompt) -> int:
    return hash((target, size, prompt.sample))


def admit(inquiry: Inquiry) -> Admission | Awaitable[Admission]:
    """Ask the gate. It waits only where a budget needs a price or a lease that is not there."""
    opened, model = inquiry.opened, inquiry.model
    # Ask for the price now where it is not there: by the call's end it is.
    opened.route.tariff.quote(model, "", alias=opened.alias)
    outcome = _check(inquiry, price_asked=False)
    if isinstance(outcome, Allowed) or isinstance(outcome, Denied):  # noqa: SIM101 - a tuple takes compiled code longer
        return _decide(inquiry, outcome)
    return _admit_later(inquiry, outcome)


async def configured(opened: Opened) -> Opened:
    """Wait a moment for the first configuration; returns what is opened by it, or the same where it did not come."""
    route = opened.route
    ledger = route.shared.ledger
    if ledger.await_config is not None:
        await ledger.await_config(_CONFIG_SECONDS)
    config = ledger.config.services.get(route.name) if ledger.config is not None else None
    if config is None or config.state == "Released":
        return opened
    labels = route.shared.labels.of(opened.headers, config.labels)
    return Opened(route, opened.match, opened.dialect, config, opened.headers, labels)


def unready(inquiry: Inquiry) -> Refused:
    """Refuse a call that no configuration says anything about, under a budget that does not go on without the ledger."""
    route = inquiry.opened.route
    return _refused(inquiry, refusals.unconfigured(route.hard, route.full_name))


async def _admit_later(inquiry: Inquiry, outcome: NeedsPrice | Short) -> Admission:
    """Ask the ledger for what is missing, and check again. A lease is waited for until a deadline."""
    route = inquiry.opened.route
    ledger = route.shared.ledger
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LEASE_SECONDS
    price_asked = False
    latest: Outcome = outcome
    while True:
        if isinstance(latest, NeedsPrice):
            price_asked = True
            if ledger.ask_price is not None:
                await ledger.ask_price(route.name, latest.model)
                deadline = loop.time() + _LEASE_SECONDS
        elif isinstance(latest, Short):
            if ledger.ask_lease is not None:
                await ledger.ask_lease(latest, max(deadline - loop.time(), 0.0))
        else:
            return _decide(inquiry, latest)
        last = ledger.ask_lease is None or loop.time() >= deadline
        latest = _check(inquiry, price_asked=price_asked, last=last)


def _check(inquiry: Inquiry, *, price_asked: bool, last: bool = False) -> Outcome:
    opened = inquiry.opened
    route = opened.route
    gate = route.shared.gate
    outcome = gate.check(
        opened.config,
        route.full_name,
        inquiry.model,
        priced=inquiry.has_price,
        price_asked=price_asked,
        now=route.shared.ledger.clock(),
        bound=inquiry.bound,
        last=last,
    )
    if not inquiry.readable and isinstance(outcome, Allowed) and outcome.fallback:
        gate.charge(None, 0, 0, outcome.reservations)
        return Denied(outcome.budget, "insufficient_quota", _ENCODED)
    return outcome


def _decide(inquiry: Inquiry, outcome: Allowed | Denied) -> Admission:
    opened = inquiry.opened
    if isinstance(outcome, Denied):
        return _refused(inquiry, outcome)
    if outcome.fallback is not None:
        opened.route.tariff.quote(outcome.fallback, "", alias=opened.alias)  # its price is needed at the end
    return Admitted(inquiry, outcome)


def _refused(inquiry: Inquiry, denied: Denied) -> Refused:
    dialect = inquiry.opened.dialect
    if not denied.unready:
        answer = dialect.refusal(denied.code, denied.message, budget=denied.budget, retry_after=denied.retry_after)
        return Refused(inquiry, denied, answer)
    headers = [(names.HEADER_BUDGET, denied.budget.encode())]
    if denied.retry_after is not None:
        headers.append((b"Retry-After", b"%d" % denied.retry_after))
    body = dialect.error_body(_UNREADY, denied.code, denied.message)
    return Refused(inquiry, denied, Refusal(_UNREADY, body, tuple(headers)))


def _capped(cap: int, window: int) -> int:
    """Tokens to reserve for a call that names no bound: the cap, or the model's context window if that is smaller."""
    return min(cap, window) if window else cap
