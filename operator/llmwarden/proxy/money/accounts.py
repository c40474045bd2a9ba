"""Which of the journal's accounts a finished call counts in, and when a stream is noted there. Start at `Accounts.finished`."""

from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from llmwarden import names
from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.money.journal import Account, AccountKey, Journal
from llmwarden.proxy.money.ledger_view import LedgerView
from llmwarden.proxy.record import Record

_ACCOUNTS: Final = 256  # models of a service whose last account is at hand


class Accounts:
    """The sink that writes the journal. `capped` limits how many names of models clients can make up."""

    def __init__(self, ledger: LedgerView, journal: Journal, capped: Callable[[str], str]) -> None:
        self._ledger = ledger
        self._journal = journal
        self._capped = capped
        self._last: dict[str, dict[str, Account]] = {}  # by service and model: the account of the last call

    def finished(self, record: Record) -> None:
        """Count a call, on disk before its last byte is released. A refused one has used nothing."""
        if record.refused:
            return
        tokens = record.tokens
        # No tokens were used, so the model's name is unverified client input: cap its cardinality.
        model = record.model if tokens.input + tokens.output else self._capped(record.model)
        self._journal.add(
            self._account(record, model),
            tokens,
            error=record.failed,
            estimated=record.estimated,
            times=record.times,
            number=record.stream,
        )

    def started(self, service: str, provider: str, model: str, price_id: str | None, tokens_in: int) -> int:
        """Note a stream that has started, with what it has used at least: its process may die. Returns the stream's number."""
        key = AccountKey(service, provider, model, price_id or None, self._bucket(), self._context(tokens_in), "")
        return self._journal.open(key, Tokens(input=tokens_in))

    def progress(self, stream: int, pieces: int) -> None:
        """Note how many pieces of content a stream has brought."""
        self._journal.progress(stream, pieces)

    def _account(self, record: Record, model: str) -> Account:
        """Mostly that of the model's last call."""
        accounts = self._last.get(record.service)
        if accounts is None:
            accounts = self._last[record.service] = {}
        price_id = record.price_id or None  # the ledger knows no id of a provisional price
        bucket, context, tier = self._bucket(), self._context(record.tokens.input), record.answer.tier
        account = accounts.get(model)
        if account is not None and account.fits(record.provider, price_id, bucket, context, tier, record.labels):
            return account
        labels = self._journal.bounded(bucket, record.labels)
        account = self._journal.account(
            AccountKey(
                record.service,
                record.provider,
                model,
                price_id,
                bucket,
                context,
                tier,
                labels.feature,
                labels.team,
                labels.cohort,
            )
        )
        if len(accounts) >= _ACCOUNTS:
            accounts.clear()
        accounts[model] = account
        return account

    def _bucket(self) -> int:
        return int(self._ledger.clock()) // names.BUCKET_SECONDS * names.BUCKET_SECONDS

    def _context(self, tokens_in: int) -> int:
        """The largest of the ledger's context bounds that the input reaches."""
        config = self._ledger.config
        if config is None or not config.context_bounds:
            return 0
        above = bisect_right(config.context_bounds, tokens_in)
        return config.context_bounds[above - 1] if above else 0
