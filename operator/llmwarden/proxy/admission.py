"""Whether a call may be made, and what it counts under.

`_check` asks the gate, `_decide` acts on its answer (`settle.refuse` notes a refusal), and `settle.settle` gives back or charges. What bounds a
call from above is in `asked`: output by `max_tokens` x `choices`, unless `max_tokens` is None; input by `body_bytes` (no tokenizer makes more
than one token of a byte; the JSON around a text outweighs the tokens around a message); and neither holds where `unbounded` says why not.
`admit` may return an awaitable: a call can wait for a lease.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from llmwarden import names
from llmwarden.proxy import estimate, settle, signals, spans
from llmwarden.proxy.dialects.base import Answer, Asked, Dialect, Match
from llmwarden.proxy.gate import Allowed, Bound, Denied, Held, NeedsPrice, Outcome, Short
from llmwarden.proxy.journal import Key
from llmwarden.proxy.prices import Known
from llmwarden.proxy.seam import Decision, Forward, Refusal, Request
from llmwarden.wire import Labels, ServiceConfig

if TYPE_CHECKING:
    from llmwarden.proxy.calls import MeteredService

_NO_LABELS: Final = Labels()
_NO_PROMPT: Final = estimate.Prompt()
_OUTCOMES: Final = (Allowed, Denied)
_LEASE_SECONDS: Final = 2.0  # a call waits for a lease no longer


class Admission:
    """The request's half of a call: what it asks for, at which price, and whether it may. The configuration is that of its beginning."""

    __slots__ = (
        "_heads",
        "_opaque",
        "_request",
        "_settled",
        "_usage_added",
        "answer",
        "asked",
        "body_bytes",
        "body_key",
        "budget",
        "config",
        "dialect",
        "held",
        "labels",
        "match",
        "model",
        "prompt",
        "retry",
        "service",
        "started",
        "trace",
    )

    def __init__(
        self, service: "MeteredService", request: Request, match: Match, dialect: Dialect, config: ServiceConfig | None
    ) -> None:
        self.service = service
        self.match = match
        self.dialect = dialect
        self.config = config
        self.started = request.started
        self._heads = heads = signals.read(request.headers)
        self.trace = spans.begin(heads.get(b"traceparent", b""), config.sample_percent if config is not None else 100.0)
        self.labels = service.shared.labels.of(heads, config.labels if config is not None else _NO_LABELS)
        self.retry = ""
        self.asked = Asked()
        self.answer = Answer()
        self.body_bytes = 0
        self.body_key = 0
        self.prompt = _NO_PROMPT
        self.model = ""  # as sent upstream
        self.budget = ""  # that made us change the model, or refused
        self.held: Held = ()  # of leases
        self._request = request
        self._opaque = False
        self._usage_added = False
        self._settled = False

    def admit(self, body: bytes | None) -> Decision | Awaitable[Decision]:
        """Read the request, resolve its price, ask the gate; waits only where a budget needs a price or a lease that is not there."""
        if self.match.poll:
            return self._poll()
        asked = self.match.api.read_request(body, self.match) if body is not None else None
        self.body_bytes = len(body) if body is not None else self._request.length or 0
        self.body_key = signals.body_key(self._request.target, body or b"")
        self.retry = self.service.shared.retries.seen(self._heads, self.body_key, self.started)
        if asked is None:
            self._opaque = True
            self.model = self.asked.model = self.match.model
            self.asked.unbounded = "unreadable"
            self.asked.input_bytes = self.body_bytes  # compressed or not: it is all that is known of it
        else:
            self.asked = asked
            self.model = asked.model
            self.prompt = estimate.prompt(body or b"", asked.input_bytes)
        self.price()  # asks for it when it is not there: by the call's end it is
        outcome = self._check(asked=False)
        if isinstance(outcome, _OUTCOMES):
            return self._decide(outcome, body)
        return self._admit_later(outcome, body)

    async def _admit_later(self, outcome: NeedsPrice | Short, body: bytes | None) -> Decision:
        """Ask the ledger for what is missing, and check again; a lease is waited for until a deadline."""
        shared = self.service.shared
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LEASE_SECONDS
        asked = False
        found: Outcome = outcome
        while True:
            if isinstance(found, NeedsPrice):
                asked = True
                if shared.ask is not None:
                    await shared.ask(self.service.name, found.model)
                    deadline = loop.time() + _LEASE_SECONDS
            elif isinstance(found, Short):
                if shared.more is not None:
                    await shared.more(found, max(deadline - loop.time(), 0.0))
            else:
                return self._decide(found, body)
            last = shared.more is None or loop.time() >= deadline
            found = self._check(asked=asked, last=last)

    def _poll(self) -> Decision:
        """A question for an answer that was admitted when it was begun."""
        begun = self.service.deferred.get(self.match.poll)
        if begun is not None:
            self.model, self.asked, self.labels = begun.model, begun.asked, begun.labels
        return Forward()

    # Prices, and by which model.

    def provider(self) -> str:
        """The provider as the ledger calls it."""
        return (self.config.provider if self.config is not None else "") or self.service.fallback_provider

    def row_model(self) -> str:
        """The model that is charged: the one that was asked for, as the price was resolved by it.

        A deployment's name is no model's: unless it has a price of its own, what answers under it is charged.
        """
        if self.match.alias and not self._has_price(self.model):
            return self.answer.model or self.service.aliases.get(self.model) or self.model
        return self.model or self.answer.model

    def key(self, model: str, tokens_in: int, tier: str, price_id: str | None) -> Key:
        """What the call counts under, now."""
        shared = self.service.shared
        bucket = int(shared.clock()) // names.BUCKET_SECONDS * names.BUCKET_SECONDS
        bounds = shared.config.context_bounds if shared.config is not None else ()
        above = bisect_right(bounds, tokens_in)
        return Key(
            self.service.name,
            self.provider(),
            model,
            price_id or None,  # "": a provisional price
            bucket,
            bounds[above - 1] if above else 0,
            tier,
        )

    def price(self) -> Known | None:
        """The price, asked for in the background where it is not known or not fresh."""
        if not self.model:
            return None
        known = self._known(self.model)
        return self._known(self.row_model()) if self.match.alias else known

    def _known(self, model: str) -> Known | None:
        known = self._fresh(model)
        if known is None:
            shared = self.service.shared
            if shared.ask_soon is not None:
                shared.ask_soon(self.service.name, model)
            known = shared.prices.last(self.service.name, model)
        return known

    def _has_price(self, model: str) -> bool:
        known = self._fresh(model) or self.service.shared.prices.last(self.service.name, model)
        return known is not None and known.price_id is not None

    def _priced_as(self, model: str) -> str:
        """The model by whose price another one is judged beforehand: what answers under a deployment's name, once it is known."""
        if self.match.alias and not self._has_price(model):
            return self.service.aliases.get(model, model)
        return model

    def _fresh(self, model: str) -> Known | None:
        generation = self.config.price_generation if self.config is not None else ""
        return self.service.shared.prices.get(self.service.name, model, generation, self.service.shared.clock())

    def _priced(self, model: str) -> bool | None:
        """Whether a model has a price. That it had none is not believed once prices have changed."""
        model = self._priced_as(model)
        known = self._fresh(model)
        if known is not None:
            return known.price_id is not None
        last = self.service.shared.prices.last(self.service.name, model)
        return True if last is not None and last.price_id is not None else None

    # Deciding.

    def _bound(self, model: str) -> Bound:
        """What the call can use at most, by this model; see the module."""
        shared, asked = self.service.shared, self.asked
        known = shared.prices.last(self.service.name, self._priced_as(model))
        window = known.window if known is not None else 0
        tokens_in, tokens_out = self.body_bytes, 0
        if asked.unbounded:
            tokens_in = _capped(shared.limits.unbounded_input_tokens, window)
            if not tokens_in:
                return Bound(None, 0, unbounded=asked.unbounded)
        if asked.max_tokens is not None:
            tokens_out = max(asked.max_tokens, 0) * asked.choices
        elif self.match.api.operation != "embeddings":
            tokens_out = _capped(shared.limits.unbounded_output_tokens, window) * asked.choices
            if not tokens_out:
                return Bound(None, 0, unbounded="no max_tokens")
        picodollars = known.at_most(tokens_in, tokens_out) if known is not None else None
        return Bound(picodollars, tokens_in + tokens_out, capped=bool(asked.unbounded) or asked.max_tokens is None)

    def _check(self, *, asked: bool, last: bool = False) -> Outcome:
        service = self.service
        gate = service.shared.gate
        outcome = gate.check(
            self.config,
            service.full_name,
            self.model,
            priced=self._priced,
            asked=asked,
            now=service.shared.clock(),
            bound=self._bound,
            last=last,
        )
        if self._opaque and isinstance(outcome, Allowed) and outcome.fallback:
            gate.charge(None, 0, 0, outcome.held)
            return Denied(
                outcome.budget,
                "insufficient_quota",
                "LLM Warden: the budget is used up, and the request is too large or encoded: its model cannot be changed to the fallback",
            )
        return outcome

    def _decide(self, outcome: Allowed | Denied, body: bytes | None) -> Decision:
        if isinstance(outcome, Denied):
            return self._refuse(outcome)
        self.held = outcome.held
        headers: tuple[tuple[bytes, bytes], ...] = ()
        target = b""
        api = self.match.api
        if outcome.fallback is not None:
            self.model = outcome.fallback
            self.budget = outcome.budget
            self.price()
            headers = ((b"x-llmwarden-fallback", outcome.fallback.encode()),)
            target = api.write_target(self._request.target, outcome.fallback)
        if body is None or self._opaque:
            return Forward(body, headers)
        asked = self.asked
        self._usage_added = asked.stream and not asked.wants_usage and self.match.takes_usage
        if self._usage_added or outcome.fallback is not None:
            body = api.write_request(body, asked, model=outcome.fallback, usage=self._usage_added)
        return Forward(body, headers, target)

    def _refuse(self, denied: Denied) -> Refusal:
        self._settled = True
        self.service.in_flight.dec()
        self.budget = denied.budget
        refusal = self.dialect.refusal(
            denied.code, denied.message, budget=denied.budget, retry_after=denied.retry_after
        )
        settle.refuse(self, denied.code, refusal.status)
        return refusal


def _capped(cap: int, window: int) -> int:
    """What is reserved where a call says nothing: the model's window, where it is known and smaller than the cap."""
    return min(cap, window) if window else cap
