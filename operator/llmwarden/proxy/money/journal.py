"""The proxy's own account: cumulative totals that survive its death, in an append-only file.

One `write()` per finished call, no fsync: what is in the page cache survives SIGKILL, and when the node is lost so is the
emptyDir. A line is a JSON array; the first element says what it is. A torn or foreign line is skipped and counted.
The file is rewritten as a snapshot when it grows, and after every replay.
"""

import os
import uuid
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from llmwarden import names
from llmwarden.contracts.ledger import Labels, Row, Tokens
from llmwarden.proxy.money.busy import NO_TIMES

_NAME: Final = "journal"
_COMPACT_AT: Final = 4 * 1024 * 1024  # bytes
# Closed and acknowledged rows are remembered for so long: a clock set back must not start a row again, below the ledger's maximum.
_REMEMBER_SECONDS: Final = 3 * 3600

_LABELS: Final = 200  # sets of labels per bucket: more are counted under OTHER, for headers come from outside
OTHER: Final = Labels("other", "other", "other")


class AccountKey(NamedTuple):
    """What tells one account from another: the key of a row of the report (contracts.ledger.Row)."""

    service: str
    provider: str
    model: str
    price_id: str | None
    bucket: int
    context: int = 0
    tier: str = ""
    feature: str = ""
    team: str = ""
    cohort: str = ""


class Account:
    """Totals of one key. A call is counted by a few additions, and the key's text is made once."""

    requests: int = 0
    errors: int = 0
    estimated: int = 0
    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    cache_write_1h: int = 0
    input_audio: int = 0
    output_audio: int = 0
    busy_ms: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0
    dirty: bool = True  # not yet acknowledged as it is
    gone: bool = False  # the journal has forgotten it: what is counted here is lost

    def __init__(self, key: AccountKey) -> None:
        self.key = key
        self.provider = key.provider
        self.price_id = key.price_id
        self.bucket = key.bucket
        self.context = key.context
        self.tier = key.tier
        self.labels = Labels(key.feature, key.team, key.cohort)
        self.text = msgspec.Raw(msgspec.json.encode(key))

    @property
    def tokens(self) -> Tokens:
        """The sums of tokens."""
        return Tokens(*[getattr(self, name) for name in _TOKENS])

    def fits(  # noqa: PLR0917 - all that a key has beside service and model
        self, provider: str, price_id: str | None, bucket: int, context: int, tier: str, labels: Labels
    ) -> bool:
        """Whether a call of the same service and model counts here."""
        return (
            self.bucket == bucket
            and self.price_id == price_id
            and self.context == context
            and self.tier == tier
            and self.provider == provider
            and self.labels == labels
            and not self.gone
        )

    def count(self, tokens: Tokens, times: tuple[int, int, int], *, error: bool, estimated: bool) -> None:
        """Count a finished call."""
        self.requests += 1
        self.errors += error
        self.estimated += estimated
        self.input += tokens.input
        self.output += tokens.output
        if tokens.cached_input or tokens.cache_write:
            self.cached_input += tokens.cached_input
            self.cache_write += tokens.cache_write
            self.cache_write_1h += tokens.cache_write_1h
        self.reasoning += tokens.reasoning
        if tokens.input_audio or tokens.output_audio:
            self.input_audio += tokens.input_audio
            self.output_audio += tokens.output_audio
        if times is not NO_TIMES:
            busy, prefill, decode = times
            self.busy_ms += busy
            self.prefill_ms += prefill
            self.decode_ms += decode
        self.dirty = True

    def counts(self) -> list[int]:
        """All of them, as they stand in a snapshot."""
        return [getattr(self, name) for name in _COUNTS]

    def restore(self, counts: list[int]) -> None:
        """Take what a snapshot says; an older one has fewer counts."""
        for name, count in zip(_COUNTS, counts, strict=False):
            setattr(self, name, count)


_TOKENS: Final = Tokens.__struct_fields__
_COUNTS: Final = ("requests", "errors", "estimated", *_TOKENS, "busy_ms", "prefill_ms", "decode_ms")


class Journal:
    """Totals by key, in memory and on disk.

    `errors` counts writes that failed: their calls are served, and counted in memory. `skipped` counts lines that could not be read at
    the start, `orphans` calls that the process before this one did not finish. All three are metrics of the proxy.
    """

    def __init__(self, directory: Path, pod_uid: str) -> None:
        self._path = directory / _NAME
        self._pod_uid = pod_uid
        self._rows: dict[AccountKey, Account] = {}
        self._labels: dict[int, set[Labels]] = {}  # by bucket
        self._open: dict[int, list[Any]] = {}  # streams under way, by number
        self._number = 0
        self._file: int | None = None
        self._size = 0
        self._damaged = False  # the disk misses something that memory has
        self.errors = 0
        self.skipped = 0
        self.orphans = 0
        self.id = str(uuid.uuid4())
        self.sequence = 0
        self._replay()
        self._settle_orphans()
        self._compact()

    # Calls.

    def open(self, key: AccountKey, tokens: Tokens) -> int:
        """Note a stream under way with what it has used at least; returns its number. The bucket is that of its end."""
        self._number += 1
        record = ["o", self._number, *key[:4], tokens.input, tokens.output, *key[5:]]
        self._open[self._number] = record
        self._write(record)
        return self._number

    def bounded(self, bucket: int, labels: Labels) -> Labels:
        """The labels, or OTHER where a bucket has too many already."""
        sets = self._labels.setdefault(bucket, set())
        if labels in sets:
            return labels
        if len(sets) >= _LABELS:
            return OTHER
        sets.add(labels)
        return labels

    def progress(self, number: int, output: int) -> None:
        """Note how far a stream is."""
        record = self._open.get(number)
        if record is not None:  # not ended yet
            record[7] = output
            self._write(record)

    def account(self, key: AccountKey) -> Account:
        """The totals of a key. A caller that remembers them must look at `gone` before it counts the next call there."""
        account = self._rows.get(key)
        if account is None:
            account = self._rows[key] = Account(key)
        return account

    def add(
        self,
        account: Account,
        tokens: Tokens,
        *,
        error: bool = False,
        estimated: bool = False,
        times: tuple[int, int, int] = NO_TIMES,  # contracts.ledger.Row: busy_ms, prefill_ms, decode_ms
        number: int = 0,
    ) -> None:
        """Count a finished call (and end the stream `number`), on disk before its last byte is released."""
        account.count(tokens, times, error=error, estimated=estimated)
        if number:
            self._open.pop(number, None)
        counts = (
            tokens.input,
            tokens.cached_input,
            tokens.cache_write,
            tokens.output,
            tokens.reasoning,
            tokens.cache_write_1h,
            tokens.input_audio,
            tokens.output_audio,
        )
        if times is NO_TIMES:
            self._write(("c", number, account.text, int(error), int(estimated), counts))
        else:
            self._write(("c", number, account.text, int(error), int(estimated), counts, *times))

    # Reports.

    def next_sequence(self) -> int:
        """The next report's number; it grows over restarts."""
        self.sequence += 1
        self._write(("s", self.sequence))
        return self.sequence

    def pending(self, limit: int) -> tuple[Row, ...]:
        """At most `limit` rows that the ledger has not acknowledged as they are, oldest first."""
        dirty = sorted((item for item in self._rows.values() if item.dirty), key=lambda item: item.key.bucket)
        return tuple(_row(item) for item in dirty[:limit])

    def acknowledge(self, rows: tuple[Row, ...], now: float) -> None:
        """Mark what was sent and has not grown since; forget what closed long ago."""
        for row in rows:
            account = self._rows.get(_key_of(row))
            if account is not None and _row(account) == row:
                account.dirty = False
        oldest = now - _REMEMBER_SECONDS
        for account in [item for item in self._rows.values() if item.key.bucket < oldest and not item.dirty]:
            account.gone = True
            del self._rows[account.key]
        for bucket in [bucket for bucket in self._labels if bucket < oldest]:
            del self._labels[bucket]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    # The file.

    def _write(self, record: object) -> None:
        if self._damaged or self._file is None or self._size > _COMPACT_AT:
            self._compact()  # holds the record already: memory came first
            return
        line = msgspec.json.encode(record) + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError:
            written = 0
        self._size += written
        if written != len(line):
            self.errors += 1
            self._damaged = True

    def _snapshot(self) -> bytes:
        records: list[object] = [("h", names.CONTRACT, self.id, self._pod_uid, self.sequence)]
        records += [("r", account.text, *account.counts()) for account in self._rows.values()]
        records += self._open.values()
        return b"".join(msgspec.json.encode(record) + b"\n" for record in records)

    def _compact(self) -> None:
        """Write a new file with all totals, and replace the old one. A failure leaves the old file as it was."""
        data = self._snapshot()
        fresh = self._path.with_suffix(".new")
        try:
            file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        except OSError:
            self.errors += 1
            self._damaged = True
            return
        try:
            whole = os.write(file, data) == len(data)
            if whole:
                fresh.replace(self._path)
        except OSError:
            whole = False
        if not whole:
            os.close(file)
            self.errors += 1
            self._damaged = True
            return
        self.close()
        self._file = file
        self._size = len(data)
        self._damaged = False

    def _replay(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError:
            self.errors += 1
            return
        lines = data.split(b"\n")
        header = _parse(lines[0])
        if not header or header[0] != "h" or len(header) < 5 or header[3] != self._pod_uid:  # noqa: PLR2004 - its fields
            self.skipped += 1
            return  # another pod's, or nobody's: a new journal
        self.id = header[2]
        self.sequence = header[4]
        for line in lines[1:]:
            if line and not self._apply(_parse(line)):
                self.skipped += 1

    def _apply(self, record: list[Any] | None) -> bool:
        try:
            match record:
                case ["c", number, key, error, estimated, counts, *times]:
                    self._open.pop(number, None)
                    busy, prefill, decode = times or NO_TIMES
                    account = self.account(_key(key))
                    account.count(
                        Tokens(*counts), (busy, prefill, decode), error=bool(error), estimated=bool(estimated)
                    )
                case ["r", key, *counts]:
                    self.account(_key(key)).restore(counts)
                case ["o", number, *_]:
                    self._open[number] = record
                    self._number = max(self._number, number)
                case ["s", sequence]:
                    self.sequence = max(self.sequence, sequence)
                case _:
                    return False
        except (TypeError, ValueError):
            return False
        return True

    def _settle_orphans(self) -> None:
        """Charge each stream that died with its process once: for the usage that was noted, labelled estimated."""
        for _, _, service, provider, model, price_id, read, written, *more in self._open.values():
            tokens = Tokens(input=read, output=written)
            key = AccountKey(service, provider, model, price_id, self._died_in(), *more)
            self.account(key).count(tokens, NO_TIMES, error=True, estimated=True)
            self.orphans += 1
        self._open.clear()

    def _died_in(self) -> int:
        """The bucket of the journal's last write, which is close to when the former process died."""
        return int(self._path.stat().st_mtime) // names.BUCKET_SECONDS * names.BUCKET_SECONDS


def _row(account: Account) -> Row:
    key = account.key
    return Row(
        service=key.service,
        provider=key.provider,
        model=key.model,
        price_id=key.price_id,
        bucket=key.bucket,
        requests=account.requests,
        errors=account.errors,
        estimated=account.estimated,
        tokens=account.tokens,
        context=key.context,
        tier=key.tier,
        labels=account.labels,
        busy_ms=account.busy_ms,
        prefill_ms=account.prefill_ms,
        decode_ms=account.decode_ms,
    )


def _key_of(row: Row) -> AccountKey:
    labels = row.labels
    return AccountKey(
        row.service,
        row.provider,
        row.model,
        row.price_id,
        row.bucket,
        row.context,
        row.tier,
        labels.feature,
        labels.team,
        labels.cohort,
    )


def _parse(line: bytes) -> list[Any] | None:
    try:
        record = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return record if isinstance(record, list) else None


def _key(value: list[Any]) -> AccountKey:
    service, provider, model, price_id, bucket, *more = value
    return AccountKey(service, provider, model, price_id, int(bucket), *more)
