"""The proxy's side of the ledger contract: configuration by long poll, prices on demand, cumulative reports. Off the hot path."""

import asyncio
import logging
import random
import ssl
import time
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import msgspec

from llmwarden import names
from llmwarden.contracts.ledger import Config, ErrorAnswer, PodRef, Price, Report, ReportAnswer
from llmwarden.contracts.sidecar import Ledger
from llmwarden.proxy.calls.route import Shared
from llmwarden.proxy.http.client import Answer, Client, ClientError
from llmwarden.proxy.money.gate import Short
from llmwarden.proxy.money.ledger_view import decode_config
from llmwarden.proxy.saved import MOST_PRICES, Saved, SavedPrice

_LOG: Final = logging.getLogger(__name__)
_WAIT_SECONDS: Final = 25  # of the long poll
_SLACK_SECONDS: Final = 10.0
_TIMEOUT_SECONDS: Final = 10.0
_PRICE_SECONDS: Final = 2.0  # a call waits for a price no longer
_PRICE_AGAIN_SECONDS: Final = 0.25  # until a price that a call waits for is asked for again
# After a call has waited for a price without an answer, no other call waits for it for so long.
_UNANSWERED_SECONDS: Final = 5.0
_UNANSWERED: Final = 1000  # models for which that is remembered
_SAVE_SECONDS: Final = 0.5  # within which prices that came are saved together
_HEARTBEAT_SECONDS: Final = 60.0
_MAX_BACKOFF: Final = 10.0
_MIN_POLL_SECONDS: Final = 0.2  # between two polls, whatever the ledger says
_FIRST_SECONDS: Final = 1.0  # until the first report
_MIN_RESET_SECONDS: Final = 1.0  # between two looks at a window that has ended
_ROWS: Final = 500  # of one report
_OK: Final = 200
_NOT_MODIFIED: Final = 304


class Reporter:
    """Talks to the ledger until cancelled; what it learns goes into `Shared.ledger`."""

    def __init__(self, ledger: Ledger, services: list[str], shared: Shared, journal_dir: Path) -> None:
        self._ledger = ledger
        self._services = services
        self._shared = shared
        self._saved = Saved(journal_dir)
        tls = ssl.create_default_context(cadata=ledger.ca or None) if ledger.url.startswith("https:") else None
        self._config_client = Client(ledger.url, tls)
        self._report_client = Client(ledger.url, tls)
        self._price_client = Client(ledger.url, tls)
        self._asking: dict[tuple[str, str], asyncio.Task[bool]] = {}
        # Prices that a call has waited for without an answer: until when no other call waits for them.
        self._unanswered: dict[tuple[str, str], float] = {}
        self._saving: asyncio.TimerHandle | None = None
        self._interval = 5.0
        self._reported_at = 0.0  # monotonic
        self._logged = ""
        self._configured = asyncio.Event()
        self._soon = asyncio.Event()  # a call waits for a lease
        self._again = 0.0  # seconds until that may be asked for again
        self._granted: set[asyncio.Future[None]] = set()
        view = shared.ledger
        view.ask_price = self.ask_price
        view.ask_price_soon = self.ask_price_soon
        view.ask_lease = self.ask_lease
        view.await_config = self.await_config

    def restore(self) -> None:
        """Start with the configuration and the prices of the last run, if this pod has any: see `saved`."""
        config = self._saved.config()
        if config is not None:
            self._apply(config)
        for saved in self._saved.prices():
            self._learn(saved.service, saved.model, saved.generation, saved.price)

    # Configuration.

    async def follow(self) -> None:
        """Keep the configuration current."""
        failures = 0
        while True:
            started = time.monotonic()
            try:
                await self._poll()
            except ClientError as error:
                failures += 1
                self._failed(error)
                await asyncio.sleep(_backoff(failures))
                continue
            failures = 0
            self._answered()
            await asyncio.sleep(max(_MIN_POLL_SECONDS - (time.monotonic() - started), 0))

    async def _poll(self) -> None:
        config = self._shared.ledger.config
        query = urlencode(
            {
                "contract": names.CONTRACT,
                "services": ",".join(self._services),
                "generation": config.generation if config is not None else "",
                "wait": _WAIT_SECONDS,
            }
        )
        answer = await self._config_client.request(
            "GET", f"/v1/config?{query}", headers=self._headers(), timeout=_WAIT_SECONDS + _SLACK_SECONDS
        )
        if answer.status == _NOT_MODIFIED:
            return
        _expect_ok(answer)
        try:
            config = decode_config(answer.body)
        except msgspec.DecodeError as error:
            raise _unreadable(error) from error
        self._apply(config)
        try:
            self._saved.save_config(answer.body)
        except OSError:
            self._shared.metrics.journal_errors.inc()

    async def await_config(self, seconds: float) -> None:
        """Wait for the first configuration, at most so long; not at all where the ledger has not answered for a while."""
        if self._shared.gate.lost(self._shared.ledger.clock()):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._configured.wait()

    def _apply(self, config: Config) -> None:
        self._shared.ledger.take(config)
        self._configured.set()
        self._shared.gate.configure(config)
        for budget in config.budgets.values():
            if budget.fallback_model:
                self._shared.metrics.reserve(budget.fallback_model)
        self._set_interval(config.report_interval_seconds)
        if config.now is not None:
            self._shared.ledger.clock.told(config.now.timestamp())

    def _set_interval(self, seconds: float) -> None:
        self._interval = self._shared.gate.interval = max(seconds, 0.1)

    # Prices.

    def ask_price_soon(self, service: str, model: str) -> None:
        """Ask for a price in the background, unless that is under way or was tried just now."""
        if (service, model) not in self._asking and self._shared.ledger.prices.should_ask(
            service, model, self._shared.ledger.clock()
        ):
            self._start(service, model)

    async def ask_price(self, service: str, model: str) -> None:
        """Ask for a price now; returns once the ledger has told that of the present generation, after two seconds at most.

        A ledger that restarts, or a replica that is a moment behind, is asked again meanwhile. Returns at once where the ledger has not
        answered anything for a while, or another call has just waited for the same price without an answer: then it is asked in the
        background only.
        """
        key, loop = (service, model), asyncio.get_running_loop()
        if self._shared.gate.lost(self._shared.ledger.clock()) or loop.time() < self._unanswered.get(key, 0.0):
            return
        deadline = loop.time() + _PRICE_SECONDS
        while (left := deadline - loop.time()) > 0:
            task = self._asking.get(key) or self._start(service, model)
            await asyncio.wait([task], timeout=left)
            if task.done() and task.result():
                return
            await asyncio.sleep(max(min(_PRICE_AGAIN_SECONDS, deadline - loop.time()), 0.0))
        if len(self._unanswered) >= _UNANSWERED:
            self._unanswered.clear()
        self._unanswered[key] = loop.time() + _UNANSWERED_SECONDS

    def _start(self, service: str, model: str) -> asyncio.Task[bool]:
        key = (service, model)
        task = asyncio.get_running_loop().create_task(self._fetch(service, model))
        self._asking[key] = task
        task.add_done_callback(lambda _: self._asking.pop(key, None))
        return task

    async def _fetch(self, service: str, model: str) -> bool:
        """Ask once; returns whether the ledger has told the price of the present generation."""
        shared = self._shared
        generation = shared.ledger.price_generation(service)
        query = urlencode({"contract": names.CONTRACT, "service": service, "model": model})
        try:
            answer = await self._price_client.request(
                "GET", f"/v1/price?{query}", headers=self._headers(), timeout=_TIMEOUT_SECONDS
            )
            _expect_ok(answer)
            price = msgspec.json.decode(answer.body, type=Price)
        except ClientError as error:
            self._failed(error)
        except msgspec.DecodeError as error:
            self._failed(_unreadable(error))
        else:
            generation = generation if price.generation is None else price.generation
            self._learn(service, model, generation, price)
            if price.picodollars is not None and self._saving is None:
                self._saving = asyncio.get_running_loop().call_later(_SAVE_SECONDS, self._save_prices)
            if generation == shared.ledger.price_generation(service):
                self._unanswered.pop((service, model), None)
                return True
            shared.ledger.prices.should_ask(service, model, shared.ledger.clock())  # not again with every call
        return False

    def _learn(self, service: str, model: str, generation: str, price: Price) -> None:
        self._shared.ledger.prices.put(service, model, generation, price)
        if price.picodollars is not None:
            self._shared.metrics.reserve(model)

    def _save_prices(self) -> None:
        self._saving = None
        newest = self._shared.ledger.prices.newest(MOST_PRICES)
        try:
            self._saved.save_prices([SavedPrice(*one) for one in newest])
        except OSError:
            self._shared.metrics.journal_errors.inc()

    # Leases.

    async def ask_lease(self, short: Short, seconds: float) -> None:
        """Ask for a lease now; returns at the next answer, or after so many seconds."""
        gate = self._shared.gate
        gate.waits(short)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._granted.add(waiter)
        self._soon.set()
        try:
            await asyncio.wait([waiter], timeout=seconds)
        finally:
            self._granted.discard(waiter)
            gate.waited(short)

    def _wake(self) -> None:
        for waiter in self._granted:
            if not waiter.done():
                waiter.set_result(None)
        self._granted.clear()

    # Reports.

    async def report(self) -> None:
        """Report what has changed at every interval, and a heartbeat at least every minute."""
        failures = 0
        while True:
            await self._rest(failures)
            if not self._due():
                continue
            self._soon.clear()
            try:
                await self._send(final=False)
            except ClientError as error:
                failures += 1
                self._failed(error)
            else:
                failures = 0

    async def _rest(self, failures: int) -> None:
        """Wait for the next report: until its time, or until a call waits for a lease."""
        pause = self._pause(failures)
        # While the ledger does not answer, waiting calls do not make it be asked more often.
        least = min(pause, self._again if not failures else pause)
        await asyncio.sleep(least)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause - least):
                await self._soon.wait()

    def _pause(self, failures: int) -> float:
        """Seconds until the next look: sooner when a budget's window ends before."""
        if not self._reported_at and not failures:
            return min(self._interval, _FIRST_SECONDS)  # the process before this one may have left something to report
        if failures:
            return max(self._interval, _backoff(failures))
        reset = self._shared.gate.next_reset(self._shared.ledger.clock())
        return self._interval if reset is None else min(self._interval, max(reset, _MIN_RESET_SECONDS))

    async def finish(self) -> None:
        """The last report; the caller bounds the time. Raises ClientError."""
        await self._send(final=True)

    def close(self) -> None:
        """Close the connections, and save what is still to be saved."""
        if self._saving is not None:
            self._saving.cancel()
            self._save_prices()
        for client in (self._config_client, self._report_client, self._price_client):
            client.close()

    def _due(self) -> bool:
        return (
            bool(self._shared.journal.pending(1))
            or time.monotonic() - self._reported_at >= _HEARTBEAT_SECONDS
            or self._shared.gate.has_business()
            or self._shared.gate.next_reset(self._shared.ledger.clock()) == 0
        )

    async def _send(self, *, final: bool) -> None:
        journal, gate = self._shared.journal, self._shared.gate
        identity = self._shared.identity
        while True:
            rows = journal.pending(_ROWS)
            last = len(rows) < _ROWS
            reported = gate.unacknowledged() if last else {}
            report = Report(
                contract=names.CONTRACT,
                journal=journal.id,
                sequence=journal.next_sequence(),
                pod=PodRef(namespace=identity.namespace, name=identity.pod, uid=identity.uid),
                rows=rows,
                final=final and last,
                # With the last rows only: a balance says what remains without all that is used.
                leases=gate.leases(self._shared.ledger.clock(), final=final) if last else (),
            )
            answer = await self._report_client.request(
                "POST",
                "/v1/report",
                headers=self._headers(),
                body=msgspec.json.encode(report),
                timeout=_TIMEOUT_SECONDS,
            )
            _expect_ok(answer)
            try:
                accepted = msgspec.json.decode(answer.body, type=ReportAnswer)
            except msgspec.DecodeError as error:
                raise _unreadable(error) from error
            self._take(accepted)
            journal.acknowledge(rows, self._shared.ledger.clock())
            gate.acknowledge(reported, accepted.budgets, accepted.now)
            self._reported_at = time.monotonic()
            self._shared.metrics.last_report.set(time.time())
            if accepted.leases or not any(use.wanted for use in report.leases):
                self._answered()
            elif not gate.failing_since:
                # It takes reports but grants nothing: it does not know the budgets yet, or its database failed in between.
                gate.failing_since = self._shared.ledger.clock()
            if last:
                return

    def _take(self, answer: ReportAnswer) -> None:
        """The ledger's clock, the next interval, and what it grants: one report is on its way at a time, so this answers the latest."""
        shared = self._shared
        if answer.now is not None:
            shared.ledger.clock.told(answer.now.timestamp())
        if answer.report_interval_seconds is not None:
            self._set_interval(answer.report_interval_seconds)
        shared.gate.granted(answer.leases, shared.ledger.clock())
        later = [grant.retry_seconds for grant in answer.leases if grant.retry_seconds]
        self._again = min(later) if later else 0.0
        self._wake()
        if self._again and shared.gate.has_business():
            self._soon.set()

    # Both.

    def _headers(self) -> dict[str, str]:
        """The token, read again each time: the kubelet replaces it before it expires."""
        try:
            token = Path(self._ledger.token_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            message = f"the token {self._ledger.token_file} cannot be read"
            raise ClientError(message, reason="token") from error
        return {"Authorization": f"Bearer {token}", "Accept": "application/json"}

    def _answered(self) -> None:
        self._shared.gate.failing_since = 0.0
        if self._logged:
            self._unanswered.clear()
            self._logged = ""
            _LOG.info("the ledger answers again")

    def _failed(self, error: ClientError) -> None:
        self._shared.metrics.ledger_errors.labels(error.reason).inc()
        if not self._shared.gate.failing_since:
            self._shared.gate.failing_since = self._shared.ledger.clock()
        text = str(error)
        if text != self._logged:  # once, not at every try
            self._logged = text
            _LOG.warning("the ledger: %s", text)


def _backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubling from half a second, with full jitter on its upper half."""
    bound = min(_MAX_BACKOFF, 0.5 * 2.0 ** min(failures - 1, 10))
    return bound * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


def _unreadable(error: Exception) -> ClientError:
    return ClientError(f"the answer does not match contract {names.CONTRACT}: {error}", reason="contract")


def _expect_ok(answer: Answer) -> None:
    if answer.status == _OK:
        return
    try:
        detail = msgspec.json.decode(answer.body, type=ErrorAnswer).error
        text = f"{detail.code}: {detail.message}"
    except msgspec.DecodeError:
        text = "no reason given"
    message = f"it answered {answer.status} ({text})"
    raise ClientError(message, reason=str(answer.status))
