"""Compares, day by day, what providers bill with what was counted here: the only proof that no traffic goes around.

It runs in the ledger, which has the sums and the prices, and which alone (not the operator) may read the Secret with the admin
keys. Replicas share one database: who takes an account's turn asks the provider, all show what was read. Asked each hour; the
last three days are read again, since providers correct them; at first the last month is read.
"""

import asyncio
import base64
import binascii
import contextlib
import datetime as dt
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import anyio.to_thread
import httpx

from llmwarden import names
from llmwarden.api.v1alpha1 import ProviderAccount, parse
from llmwarden.contracts import reconciliation
from llmwarden.contracts.reconciliation import Day, Fault, Side
from llmwarden.domain import drift
from llmwarden.domain.differences import manager
from llmwarden.domain.drift import Account
from llmwarden.errors import ForbiddenError, InvalidSpecError, NotFoundError, UnavailableError
from llmwarden.kube import Client, Informer
from llmwarden.ledger.changes import Change
from llmwarden.ledger.providers import usage as providers
from llmwarden.ledger.providers.usage import ProviderError
from llmwarden.ledger.rating import spend
from llmwarden.ledger.rating.rater import Rater
from llmwarden.ledger.store.accounts import DAY, Accounts, DayRow, Turn

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 30.0  # how often turns are looked at
AGAIN_SECONDS: Final = 3600  # after an answer
HOLD_SECONDS: Final = 900  # a replica that died in its turn loses it after this
FIRST_PAUSE: Final = 60  # after a failure, doubled by each more
LONGEST_PAUSE: Final = 6 * 3600
FRESH_SECONDS: Final = 900.0  # prices and late reports change our side of a day
CORRECTED_DAYS: Final = 3  # read again each time
SHOWN_DAYS: Final = 7
MOST_DAYS: Final = 35  # of one question
T = TypeVar("T")

Labels = Mapping[str, Mapping[str, str]]


class Keys(Protocol):
    """Where admin keys are."""

    async def key(self, name: str) -> str:
        """Return one. Raises ProviderError with a sentence, UnavailableError where it cannot be found out now."""
        ...


class SecretKeys:
    """The Secret `llmwarden-provider-keys` of our own namespace, read anew for each question: a new key holds at once."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def key(self, name: str) -> str:
        """See Keys."""
        where = f"Secret {names.SECRET_PROVIDER_KEYS} in namespace {self._namespace}"
        try:
            secret = await self._client.get("v1", "secrets", names.SECRET_PROVIDER_KEYS, self._namespace)
        except (NotFoundError, ForbiddenError) as error:
            message = f"there is no {where}, or the ledger may not read it: create it with the key {name!r}"
            raise ProviderError(message, reason="KeyMissing") from error
        try:
            return base64.b64decode((secret.get("data") or {})[name], validate=True).decode("ascii").strip()
        except KeyError:
            message = f"{where} has no key {name!r}"
            raise ProviderError(message, reason="KeyMissing") from None
        except (binascii.Error, ValueError):
            message = f"the key {name!r} of {where} is not a valid admin key"
            raise ProviderError(message, reason="KeyMalformed") from None


@dataclass(slots=True)
class _Shown:
    """An account's answer as it was last put together, and of what."""

    answer: reconciliation.Account
    of: object
    at: float


class Reconciler:
    """See the module. `alone` runs what writes the database while nothing else does; `clock` gives the present time."""

    def __init__(
        self,
        store: Accounts,
        alone: Callable[[Callable[[], Any]], Awaitable[Any]],
        keys: Keys,
        http: httpx.AsyncClient,
        *,
        clock: Callable[[], dt.datetime],
        rater: Rater,
        namespaces: Callable[[], Labels],
    ) -> None:
        """`rater` rates what was counted; `namespaces` gives the labels of all namespaces."""
        self._store = store
        self._alone = alone
        self._keys = keys
        self._http = http
        self._clock = clock
        self._rater = rater
        self._namespaces = namespaces
        self._accounts: dict[str, Account] = {}
        self._invalid: dict[str, tuple[str, str]] = {}  # by name: the provider as it is written, and what is wrong
        self._shown: dict[str, _Shown] = {}
        self._fresh = asyncio.Event()

    def take(self, name: str, item: Mapping[str, Any] | None) -> None:
        """Take in a ProviderAccount as it is now; None where it is gone."""
        self._accounts.pop(name, None)
        self._invalid.pop(name, None)
        self._shown.pop(name, None)
        if item is None:
            return
        self._fresh.set()
        try:
            self._accounts[name] = drift.account(parse(ProviderAccount, item))
        except InvalidSpecError as error:
            logger.warning("ProviderAccount %s is left out: %s", name, error)
            self._invalid[name] = (str((item.get("spec") or {}).get("provider", "")), str(error))

    async def run(self) -> None:
        """Look at every account's turn for ever; ends by cancellation only."""
        while True:
            self._fresh.clear()
            await self.step()
            with contextlib.suppress(TimeoutError):
                # Not all replicas at once; and at once where somebody has just written an account, and looks.
                await asyncio.wait_for(self._fresh.wait(), LOOK_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311 - jitter

    async def step(self) -> None:
        """Ask the providers whose turn it is."""
        for account in list(self._accounts.values()):
            try:
                if account.name not in self._overlapping():
                    await self._turn(account)
                await self._refresh(account)
            except UnavailableError as error:
                logger.warning("account %s is looked at again later: %s", account.name, error)
            except Exception:  # whatever a provider answers, the ledger goes on
                logger.exception("account %s: a bug", account.name)

    async def answer(self, days: int = SHOWN_DAYS) -> reconciliation.Reconciliation:
        """Return every account with its last so many days. Raises UnavailableError."""
        found: dict[str, reconciliation.Account] = {
            name: reconciliation.Account(provider, fault=Fault("InvalidSpec", error))
            for name, (provider, error) in self._invalid.items()
        }
        for account in list(self._accounts.values()):
            found[account.name] = (
                await self._refresh(account) if days == SHOWN_DAYS else await self._account(account, days)
            )
        return reconciliation.Reconciliation(names.CONTRACT, self._clock(), dict(sorted(found.items())))

    @property
    def shown(self) -> dict[str, reconciliation.Account]:
        """What was last put together, for metrics: reads nothing."""
        return {name: shown.answer for name, shown in self._shown.items()}

    # Asking -----------------------------------------------------------------------------------------------------------

    async def _turn(self, account: Account) -> None:
        now = int(self._clock().timestamp())
        turn = await anyio.to_thread.run_sync(self._store.turn, account.scope)
        # A clock that was put back must not silence us until it is where it was.
        waits = now < turn.next_at <= now + 2 * LONGEST_PAUSE
        if waits or not await self._alone(lambda: self._store.take(account.scope, turn.next_at, now + HOLD_SECONDS)):
            return
        try:
            key = await self._keys.key(account.admin_key)
            start, end = await anyio.to_thread.run_sync(self._span, account.scope)
            found = await providers.read(self._http, account, key, start, end)
        except ProviderError as error:
            pause = min(LONGEST_PAUSE, max(error.retry_after, FIRST_PAUSE * 2 ** min(turn.failures, 16)))
            again = now + int(pause * random.uniform(1, 1.1))  # noqa: S311 - so that not all accounts come at once
            logger.warning("account %s could not be read (%s): %s", account.name, error.reason, error)
            reason, message = error.reason, str(error)
            await self._alone(lambda: self._store.fail(account.scope, reason, message, again))
            return
        rows = {
            _start(day): DayRow(billed.side.input, billed.side.output, billed.side.picodollars, billed.other)
            for day, billed in found.items()
        }
        await self._alone(lambda: self._store.record(account.scope, rows, now, now + AGAIN_SECONDS))

    def _span(self, scope: str) -> tuple[dt.date, dt.date]:
        """Days to ask for: those that may still be corrected, and what is missing of the last month."""
        last = drift.last_settled(self._clock())
        oldest = last - dt.timedelta(days=providers.MOST_DAYS - 1)
        end = last + dt.timedelta(days=1)
        known = self._store.days(scope, _start(oldest), _start(end))
        start = last - dt.timedelta(days=CORRECTED_DAYS - 1)
        missing = (
            day
            for number in range(providers.MOST_DAYS)
            if _start(day := oldest + dt.timedelta(days=number)) not in known
        )
        return min(start, next(missing, start)), end

    # Answering --------------------------------------------------------------------------------------------------------

    async def _refresh(self, account: Account) -> reconciliation.Account:
        """What is shown of an account: put together again when the provider was asked, and now and then."""
        turn = await anyio.to_thread.run_sync(self._store.turn, account.scope)
        of = (turn, account, self._overlapping().get(account.name), drift.last_settled(self._clock()))
        now = self._clock().timestamp()
        known = self._shown.get(account.name)
        if known is None or known.of != of or not 0 <= now - known.at < FRESH_SECONDS:
            known = _Shown(await self._account(account, SHOWN_DAYS, turn), of, now)
            if account.name in self._accounts:  # it may have gone meanwhile
                self._shown[account.name] = known
        return known.answer

    async def _account(self, account: Account, count: int, turn: Turn | None = None) -> reconciliation.Account:
        rival = self._overlapping().get(account.name)
        if rival is not None:
            message = f"ProviderAccount {rival} has the same provider and some of the same namespaces. Give each account its own namespaces by namespaceSelector"
            return reconciliation.Account(account.api, fault=Fault("Overlapping", message))
        if turn is None:
            turn = await anyio.to_thread.run_sync(self._store.turn, account.scope)
        return reconciliation.Account(
            account.api,
            days=tuple(await self._days(account, count)),
            read_at=_time(turn.read_at) if turn.read_at else None,
            retry_at=_time(turn.next_at) if turn.next_at else None,
            fault=Fault(turn.reason, turn.message) if turn.reason else None,
        )

    async def _days(self, account: Account, count: int) -> list[Day]:
        """The last so many settled days of which the provider told, newest first."""
        last = drift.last_settled(self._clock())
        start, end = _start(last) - (count - 1) * DAY, _start(last) + DAY
        where = drift.namespaces(account, self._namespaces())
        said = await anyio.to_thread.run_sync(self._store.days, account.scope, start, end)
        if not said:
            return []
        first = await anyio.to_thread.run_sync(self._store.first, account.provider, where)
        sums = await anyio.to_thread.run_sync(self._store.counted, account.provider, where, start, end)
        found = await spend.summarise(sums, ("day",), span=(start, end), rater=self._rater)
        ours = {row.by["day"][:10]: row for row in found.rows}
        began = _began(account, first)
        days: list[Day] = []
        for at in sorted(said, reverse=True):
            day = _time(at).date()
            if day < began:
                continue  # nothing of it can be here
            billed, row = said[at], ours.get(str(day))
            provider = Side(billed.input, billed.output, billed.picodollars)
            ledger = Side(row.tokens.input, row.tokens.output, row.picodollars) if row else Side()
            verdict = "Partial" if day == began else drift.judge(provider, ledger, account.tolerance)
            days.append(Day(str(day), provider, ledger, verdict, billed.other, row.uncosted_tokens if row else 0))
        return days

    def _overlapping(self) -> dict[str, str]:
        return drift.overlapping(self._accounts.values(), self._namespaces())


def watching(
    client: Client,
    reconciler: Reconciler,
    changed: Callable[[Change], None] = lambda _: None,
) -> Informer:
    """Watch ProviderAccounts: run what is returned. A cluster without the kind has none. `changed` is `watch.Changed`."""

    def on_change(key: tuple[str, str], old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        by, mark = managers.get(key, ("", ""))
        if new is None:
            managers.pop(key, None)
            by, mark = "", f"{mark}/deleted"
        reconciler.take(key[1], new)
        if made.synced.is_set():
            changed(Change("ProviderAccount", key, (old or {}).get("spec"), (new or {}).get("spec"), by, mark))

    def transform(item: dict[str, Any]) -> dict[str, Any]:
        metadata = item["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        managers[key] = (manager(item), f"ProviderAccount/{metadata.get('uid', '')}/{metadata.get('generation', 0)}")
        return _essence(item)

    managers: dict[tuple[str, str], tuple[str, str]] = {}
    made = Informer(client, names.API_VERSION, "provideraccounts", on_change=on_change, transform=transform)
    return made


def _essence(item: dict[str, Any]) -> dict[str, Any]:
    """Without what the operator writes into it: its status is no change."""
    metadata = {key: item["metadata"][key] for key in ("name", "uid", "creationTimestamp") if key in item["metadata"]}
    return {**{key: item[key] for key in ("apiVersion", "kind", "spec") if key in item}, "metadata": metadata}


def _began(account: Account, first: int | None) -> dt.date:
    """The day on which counting began: when anything was counted, or the account was made, whichever was first."""
    counted = None if first is None else _time(first).date()
    if account.created == dt.date.min:
        return counted or dt.date.min
    return min(account.created, counted or account.created)


def _start(day: dt.date) -> int:
    return int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp())


def _time(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
