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
from llmwarden.contracts.ledger import Labels, ServiceConfig
from llmwarden.proxy.calls import estimate, settle
from llmwarden.proxy.dialects.base import Answer, Asked, Dialect, Match
from llmwarden.proxy.money.gate import Allowed, Bound, Denied, Held, NeedsPrice, Outcome, Short
from llmwarden.proxy.money.journal import Account, Key
from llmwarden.proxy.money.prices import Known
from llmwarden.proxy.seam import Decision, Forward, Refusal, Request
from llmwarden.proxy.telemetry import spans

if TYPE_CHECKING:
    from llmwarden.proxy.calls.service import MeteredService

_NOTHING_YET: Final = Asked()
_NO_PROMPT: Final = estimate.Prompt()
_OUTCOMES: Final = (Allowed, Denied)
_ACCOUNTS: Final = 256  # models whose totals are at hand
_LEASE_SECONDS: Final = 2.0  # a call waits for a lease no longer


class Opened:
    """What a request's head says of its call: the same for each that comes with this head, as long as the configuration is the same."""

    __slots__ = ("config", "dialect", "heads", "labels", "match", "service")

    def __init__(  # noqa: PLR0917 - what it is made of
        self,
        service: "MeteredService",
        match: Match,
        dialect: Dialect,
        config: ServiceConfig | None,
        heads: dict[bytes, bytes],
        labels: Labels,
    ) -> None:
        self.service = service
        self.match = match
        self.dialect = dialect
        self.config = config
        self.heads = heads  # those that mean something (signals.read)
        self.labels = labels


class Admission:
    """The request's half of a call: what it asks for, at which price, and whether it may. The configuration is that of its beginning."""

    __slots__ = (
        "_heads",
        "_opaque",
        "_request",
        "_settled",
        "_target",
        "_usage_added",
        "answer",
        "asked",
        "body_bytes",
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

    def __init__(self, opened: Opened, request: Request) -> None:
        self.service = opened.service
        self.match = opened.match
        self.dialect = opened.dialect
        self.config = config = opened.config
        self.labels = opened.labels
        self._heads = opened.heads
        self.started = request.started
        self.trace = spans.begin(
            opened.heads.get(b"traceparent", b""), config.sample_percent if config is not None else 100.0
        )
        self.retry = ""
        self.asked = _NOTHING_YET
        self.answer = Answer()
        self.body_bytes = 0
        self.prompt = _NO_PROMPT
        self.model = ""  # as sent upstream
        self.budget = ""  # that made us change the model, or refused
        self.held: Held = ()  # of leases
        self._request = request
        self._target = request.target  # as it came: a fallback changes the request's
        self._opaque = False
        self._usage_added = False
        self._settled = False

    def admit(self, body: bytes | None) -> Decision | Awaitable[Decision]:
        """Read the request, resolve its price, ask the gate; waits only where a budget needs a price or a lease that is not there."""
        if self.match.poll:
            return self._poll()
        asked = self.match.api.read_request(body, self.match) if body is not None else None
        self.body_bytes = len(body) if body is not None else self._request.length or 0
        if asked is None:
            self._opaque = True
            self.model = self.match.model
            # Compressed or not: its length is all that is known of it.
            self.asked = Asked(model=self.model, unbounded="unreadable", input_bytes=self.body_bytes)
            self.prompt = estimate.Prompt((body or b"")[: estimate.SAMPLE])
        else:
            self.asked = asked
            self.model = asked.model
            self.prompt = estimate.prompt(body or b"", asked.input_bytes)
        retries = self.service.shared.retries
        self.retry = retries.seen(self._heads)
        if retries.expected() and not self.retry and retries.came_again(self.body_key(), self.started):
            self.retry = "body"
        self.price()  # asks for it when it is not there: by the call's end it is
        outcome = self._check(asked=False)
        if isinstance(outcome, _OUTCOMES):
            return self._decide(outcome, body)
        return self._admit_later(outcome, body)

    def body_key(self) -> int:
        """What the body is known by in this process, whatever its size; asked for only once calls fail."""
        return hash((self._target, self.body_bytes, self.prompt.sample))

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
        """What the call counts under, now; without its labels."""
        return Key(
            self.service.name,
            self.provider(),
            model,
            price_id or None,  # "": a provisional price
            self._bucket(),
            self._context(tokens_in),
            tier,
        )

    def account(self, model: str, tokens_in: int, tier: str, price_id: str | None) -> Account:
        """The totals that the call counts in, now: mostly those of the model's last call."""
        accounts = self.service.accounts
        known = accounts.get(model)
        if known is not None and known.fits(
            self.provider(), price_id or None, self._bucket(), self._context(tokens_in), tier, self.labels
        ):
            return known
        journal = self.service.shared.journal
        key = self.key(model, tokens_in, tier, price_id)
        labels = journal.bounded(key.bucket, self.labels)
        known = journal.account(key._replace(feature=labels.feature, team=labels.team, cohort=labels.cohort))
        if len(accounts) >= _ACCOUNTS:
            accounts.clear()
        accounts[model] = known
        return known

    def _bucket(self) -> int:
        return int(self.service.shared.clock()) // names.BUCKET_SECONDS * names.BUCKET_SECONDS

    def _context(self, tokens_in: int) -> int:
        """The largest bound that the input reaches."""
        config = self.service.shared.config
        if config is None or not config.context_bounds:
            return 0
        above = bisect_right(config.context_bounds, tokens_in)
        return config.context_bounds[above - 1] if above else 0

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
        # Of the present configuration, not the call's: while a call waits for its price, another may come.
        shared, name = self.service.shared, self.service.name
        return shared.prices.get(name, model, shared.price_generation(name), shared.clock())

    def _priced(self, model: str) -> bool | None:
        """Whether a model has a price; None while the ledger has not said. That it had none is not believed once prices have changed."""
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
                "LLM Warden: the budget is used up, and the request is too large or encoded, so its model cannot be changed to the fallback",
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
