"""Budgets that hold, as a model: real gates and the real division of leases, with everything between them lost, doubled and late.

The ledger here is the contract in thirty lines: what it keeps survives its crashes, what is only in memory does not.
`tests/money/test_processes.py` asks the same of real processes.
"""

import datetime as dt
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmwarden.contracts.ledger import (
    BudgetConfig,
    BudgetState,
    BudgetUpdate,
    Config,
    LeaseGrant,
    LeaseUse,
    ServiceConfig,
)
from llmwarden.domain import leases
from llmwarden.proxy.money.gate import Allowed, Bound, Denied, Gate, Reservations, Short

KEY = "ClusterLLMBudget/all"
SERVICE = ServiceConfig("Active", "openai", 100.0, (KEY,), "p")
DAY = 86_400
LIMIT = 10_000
INTERVAL = 5.0


@dataclass
class Report:
    """What travels to the ledger: totals by window, and leases."""

    proxy: int
    sequence: int
    totals: dict[int, int]
    uses: tuple[LeaseUse, ...]


@dataclass
class Answer:
    """What travels back."""

    sequence: int
    grants: tuple[LeaseGrant, ...]
    update: BudgetUpdate


@dataclass
class Call:
    """A call under way."""

    reservations: Reservations
    bound: int


@dataclass
class Proxy:
    """A pod. `totals` and `sequence` are its journal: they survive its process."""

    number: int
    gate: Gate
    totals: dict[int, int] = field(default_factory=dict)
    sequence: int = 0
    calls: list[Call] = field(default_factory=list)
    answer: Answer | None = None
    alive: bool = True


class Ledger:
    """The contract's ledger. `hungry` is only in memory."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[int, int]] = {}
        self.outstanding: dict[int, int] = {}
        self.sequences: dict[int, int] = {}
        self.window = 0
        self.hungry: int | None = None

    @property
    def spent(self) -> int:
        return sum(totals.get(self.window, 0) for totals in self.rows.values())

    @property
    def leased(self) -> int:
        return sum(self.outstanding.values())

    def take(self, report: Report) -> Answer:
        known = self.rows.setdefault(report.proxy, {})
        for window, total in report.totals.items():
            known[window] = max(known.get(window, 0), total)
        grants: list[LeaseGrant] = []
        if report.sequence > self.sequences.get(report.proxy, -1):
            self.sequences[report.proxy] = report.sequence
            for use in report.uses:
                kept = leases.kept(use.balance, self.outstanding.get(report.proxy, 0))
                self.outstanding[report.proxy] = kept
                given = leases.divide(
                    limit=LIMIT,
                    spent=self.spent,
                    outstanding=self.leased,
                    claimants=sum(held > 0 for held in self.outstanding.values()),
                    ask=leases.Ask(kept, use.wanted, use.needed),
                )
                self.outstanding[report.proxy] += given.granted
                if given.hungry:
                    self.hungry = report.proxy
                elif self.hungry == report.proxy:
                    self.hungry = None
                recall = self.hungry not in {None, report.proxy}
                grants.append(LeaseGrant(use.budget, given.granted, recall, given.retry_seconds))
        return Answer(report.sequence, tuple(grants), self.update())

    def state(self) -> BudgetState:
        return "Exceeded" if self.spent >= LIMIT else "Open"

    def update(self) -> BudgetUpdate:
        ends = dt.datetime.fromtimestamp((self.window + 1) * DAY, dt.UTC)
        return BudgetUpdate(self.spent, self.state(), ends)

    def config(self) -> Config:
        update = self.update()
        budget = BudgetConfig(
            "tokens", LIMIT, update.spent, update.state, "Block", update.resets_at, update.resets_at, leased=True
        )
        return Config(1, "g", INTERVAL, {"bot": SERVICE}, {KEY: budget})


proxies = st.integers(0, 3)
positions = st.integers(0, 20)


class Leases(RuleBasedStateMachine):
    """Calls, reports, losses, duplicates, reordering, crashes, deaths and rollovers, in any order."""

    @initialize()
    def begin(self) -> None:
        self.now = 1000.0
        self.ledger = Ledger()
        self.network: list[Report] = []
        self.truth: dict[int, int] = {}  # really used, by window
        self.lost: dict[int, int] = {}  # by window, by pods that died with what they had not reported
        self.proxies = [Proxy(number, self.gate()) for number in range(4)]

    def gate(self) -> Gate:
        made = Gate()
        made.configure(self.ledger.config())
        return made

    @property
    def window(self) -> int:
        return int(self.now // DAY)

    # What proxies do.

    def admit(self, proxy: Proxy, bound: int) -> Allowed | Denied | Short:
        outcome = proxy.gate.check(
            SERVICE,
            "shop/bot",
            "m",
            priced=lambda _: True,
            price_asked=True,
            now=self.now,
            bound=lambda _: Bound(0, bound),
        )
        assert isinstance(outcome, Allowed | Denied | Short)
        if isinstance(outcome, Allowed):
            proxy.calls.append(Call(outcome.reservations, bound))
        return outcome

    def end(self, proxy: Proxy, call: Call, used: int) -> None:
        proxy.calls.remove(call)
        proxy.gate.charge(SERVICE, 0, used, call.reservations)
        self.count(proxy, used)

    def count(self, proxy: Proxy, used: int) -> None:
        proxy.totals[self.window] = proxy.totals.get(self.window, 0) + used
        self.truth[self.window] = self.truth.get(self.window, 0) + used

    def send(self, proxy: Proxy) -> Report:
        proxy.sequence += 1
        proxy.answer = None  # whatever comes for an earlier one is ignored
        return Report(proxy.number, proxy.sequence, dict(proxy.totals), proxy.gate.leases(self.now))

    def receive(self, proxy: Proxy, answer: Answer) -> None:
        if proxy.alive and answer.sequence == proxy.sequence:
            proxy.gate.acknowledge(proxy.gate.unacknowledged(), {KEY: answer.update})
            proxy.gate.granted(answer.grants, self.now)

    def exchange(self, proxy: Proxy) -> None:
        """A report and its answer, undisturbed."""
        self.receive(proxy, self.ledger.take(self.send(proxy)))

    @rule(number=proxies, bound=st.integers(1, 3000))
    def call(self, number: int, bound: int) -> None:
        proxy = self.proxies[number]
        if proxy.alive:
            self.admit(proxy, bound)

    @rule(number=proxies, bound=st.integers(1, 3000))
    def patient_call(self, number: int, bound: int) -> None:
        proxy = self.proxies[number]
        if not proxy.alive:
            return
        outcome = self.admit(proxy, bound)
        if isinstance(outcome, Short):
            proxy.gate.waits(outcome)
            self.exchange(proxy)
            proxy.gate.waited(outcome)
            self.admit(proxy, bound)

    @rule(number=proxies, position=positions, percent=st.integers(0, 100))
    def finish(self, number: int, position: int, percent: int) -> None:
        proxy = self.proxies[number]
        if proxy.alive and proxy.calls:
            call = proxy.calls[position % len(proxy.calls)]
            self.end(proxy, call, call.bound * percent // 100)

    @rule(number=proxies)
    def report(self, number: int) -> None:
        proxy = self.proxies[number]
        if proxy.alive:
            self.network.append(self.send(proxy))

    @rule(number=proxies, percent=st.integers(0, 100))
    def crash(self, number: int, percent: int) -> None:
        """SIGKILL and a restart: the journal's totals and sequence stay; calls under way are charged for what they are known to have used."""
        proxy = self.proxies[number]
        if proxy.alive:
            for call in proxy.calls:
                self.count(proxy, call.bound * percent // 100)
            proxy.calls.clear()
            proxy.answer = None
            proxy.gate = self.gate()

    # What comes between.

    @precondition(lambda self: self.network)
    @rule(position=positions, keep=st.booleans(), answered=st.booleans())
    def deliver(self, position: int, *, keep: bool, answered: bool) -> None:
        at = position % len(self.network)
        report = self.network[at] if keep else self.network.pop(at)
        answer = self.ledger.take(report)
        if answered:
            proxy = self.proxies[report.proxy]
            if answer.sequence == proxy.sequence:
                proxy.answer = answer

    @rule(number=proxies)
    def hear(self, number: int) -> None:
        proxy = self.proxies[number]
        if proxy.answer is not None:
            answer, proxy.answer = proxy.answer, None
            self.receive(proxy, answer)

    @precondition(lambda self: self.network)
    @rule(position=positions)
    def lose(self, position: int) -> None:
        self.network.pop(position % len(self.network))

    @rule()
    def restart_ledger(self) -> None:
        self.ledger.hungry = None
        self.network.clear()

    @rule(number=proxies)
    def pod_lost(self, number: int) -> None:
        """The pod is gone with its journal, which the API server confirms: its balance is free, what it did not report is lost."""
        proxy = self.proxies[number]
        if proxy.alive:
            for call in proxy.calls:
                self.count(proxy, call.bound)
            proxy.calls.clear()
            proxy.alive = False
            self.network = [report for report in self.network if report.proxy != number]
            known = self.ledger.rows.get(number, {})
            for window, total in proxy.totals.items():
                self.lost[window] = self.lost.get(window, 0) + total - known.get(window, 0)
            self.ledger.outstanding.pop(number, None)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 30.0]))
    def time(self, seconds: float) -> None:
        self.now += seconds
        self.ledger.window = self.window

    @rule()
    def window_ends(self) -> None:
        self.now = (self.window + 1) * DAY + 0.5
        self.ledger.window = self.window

    # What must hold.

    @invariant()
    def a_limit_is_never_passed(self) -> None:
        """But for what nobody can know: what pods used that were lost before they reported it."""
        assert all(used - self.lost.get(window, 0) <= LIMIT for window, used in self.truth.items())

    @invariant()
    def nothing_is_granted_twice(self) -> None:
        assert self.ledger.spent + self.ledger.leased <= LIMIT

    @invariant()
    def the_ledger_knows_what_proxies_hold(self) -> None:
        for proxy in self.proxies:
            held = proxy.gate._budgets[KEY].balance if proxy.alive else 0
            unreported = sum(proxy.totals.values()) - sum(self.ledger.rows.get(proxy.number, {}).values())
            if proxy.alive:
                assert held <= self.ledger.outstanding.get(proxy.number, 0) + unreported

    @rule()
    def quiet(self) -> None:
        """Everything ends, and a few reports get through: the sums are exact, and all that is left can be used by anyone."""
        for proxy in self.proxies:
            for call in list(proxy.calls):
                self.end(proxy, call, call.bound // 2)
        self.network.clear()
        living = [proxy for proxy in self.proxies if proxy.alive]
        for _ in range(4):
            self.now += INTERVAL
            self.ledger.window = self.window
            for proxy in living:
                self.exchange(proxy)
        known = sum(sum(totals.values()) for totals in self.ledger.rows.values())
        assert known == sum(self.truth.values()) - sum(self.lost.values())
        if living:
            self.use_all(living[0], living[1:])

    def use_all(self, eager: Proxy, others: list[Proxy]) -> None:
        """One proxy spends what is left, while the others only report: no more stays unusable than two per cent or one call."""
        size, refused = LIMIT // 100, 0
        while refused < 6:  # in a row
            outcome = self.admit(eager, size)
            if isinstance(outcome, Allowed):
                self.end(eager, eager.calls[-1], size)
                refused = 0
                continue
            refused += 1
            if isinstance(outcome, Short):
                eager.gate.waits(outcome)
            for proxy in (eager, *others):
                self.now += 0.3
                self.exchange(proxy)
            if isinstance(outcome, Short):
                eager.gate.waited(outcome)
        assert LIMIT - self.ledger.spent <= max(LIMIT * 2 // 100, size)


Leases.TestCase.settings = settings(
    max_examples=400,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestLeases = Leases.TestCase
