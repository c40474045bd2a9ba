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
from msgspec.structs import astuple

from llmwarden import names
from llmwarden.proxy.busy import NO_TIMES
from llmwarden.wire import Labels, Row, Tokens

_NAME: Final = "journal"
_COMPACT_AT: Final = 4 * 1024 * 1024  # bytes
# Closed and acknowledged rows are remembered for so long: a clock set back must not begin a row anew, below the ledger's maximum.
_REMEMBER_SECONDS: Final = 3 * 3600

_LABELS: Final = 200  # sets of labels per bucket: more are counted under OTHER, for headers come from outside
OTHER: Final = Labels("other", "other", "other")


class Key(NamedTuple):
    """What calls are counted by (wire.Row)."""

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


class Entry(msgspec.Struct, frozen=True):
    """One finished call."""

    key: Key
    tokens: Tokens
    error: bool = False
    estimated: bool = False
    times: tuple[int, int, int] = NO_TIMES  # wire.Row: busy_ms, prefill_ms, decode_ms


class _Totals(msgspec.Struct):
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

    @property
    def tokens(self) -> Tokens:
        return Tokens(*astuple(self)[3:-4])


class Journal:
    """Totals by key in memory and on disk. `errors` counts writes that failed: the call is served and counted in memory."""

    def __init__(self, directory: Path, pod_uid: str) -> None:
        self._path = directory / _NAME
        self._pod_uid = pod_uid
        self._rows: dict[Key, _Totals] = {}
        self._labels: dict[int, set[Labels]] = {}  # by bucket
        self._open: dict[int, list[Any]] = {}  # streams under way, by number
        self._number = 0
        self._file: int | None = None
        self._size = 0
        self._damaged = False  # the disk misses something that memory has
        self.errors = 0
        self.skipped = 0
        self.orphans = 0  # streams that a former process did not finish
        self.id = str(uuid.uuid4())
        self.sequence = 0
        self._replay()
        self._settle_orphans()
        self._compact()

    # Calls.

    def open(self, key: Key, tokens: Tokens) -> int:
        """Note a stream under way with what it has used at least; returns its number. The bucket is that of its end."""
        self._number += 1
        record = ["o", self._number, *key[:4], tokens.input, tokens.output, *key[5:]]
        self._open[self._number] = record
        self._write(record)
        return self._number

    def bounded(self, bucket: int, labels: Labels) -> Labels:
        """The labels, or OTHER where a bucket has too many already."""
        known = self._labels.setdefault(bucket, set())
        if labels in known:
            return labels
        if len(known) >= _LABELS:
            return OTHER
        known.add(labels)
        return labels

    def progress(self, number: int, output: int) -> None:
        """Note how far a stream is."""
        record = self._open.get(number)
        if record is not None:  # not ended yet
            record[7] = output
            self._write(record)

    def add(self, entry: Entry, number: int = 0) -> None:
        """Add a finished call (and end the stream `number`), on disk before its last byte is released."""
        tokens = entry.tokens
        self._add(entry)
        self._open.pop(number, None)
        self._write(
            (
                "c",
                number,
                entry.key,
                int(entry.error),
                int(entry.estimated),
                astuple(tokens),
                *(entry.times if entry.times != NO_TIMES else ()),
            )
        )

    def _add(self, entry: Entry) -> None:
        totals = self._rows.get(entry.key)
        if totals is None:
            totals = self._rows[entry.key] = _Totals()
        tokens = entry.tokens
        totals.requests += 1
        totals.errors += entry.error
        totals.estimated += entry.estimated
        totals.input += tokens.input
        totals.cached_input += tokens.cached_input
        totals.cache_write += tokens.cache_write
        totals.output += tokens.output
        totals.reasoning += tokens.reasoning
        totals.cache_write_1h += tokens.cache_write_1h
        totals.input_audio += tokens.input_audio
        totals.output_audio += tokens.output_audio
        if entry.times != NO_TIMES:
            busy, prefill, decode = entry.times
            totals.busy_ms += busy
            totals.prefill_ms += prefill
            totals.decode_ms += decode
        totals.dirty = True

    # Reports.

    def next_sequence(self) -> int:
        """The next report's number; it grows over restarts."""
        self.sequence += 1
        self._write(("s", self.sequence))
        return self.sequence

    def pending(self, limit: int) -> tuple[Row, ...]:
        """At most `limit` rows that the ledger has not acknowledged as they are, oldest first."""
        keys = sorted((key for key, totals in self._rows.items() if totals.dirty), key=lambda key: key.bucket)
        return tuple(_row(key, self._rows[key]) for key in keys[:limit])

    def acknowledge(self, rows: tuple[Row, ...], now: float) -> None:
        """Mark what was sent and has not grown since; forget what closed long ago."""
        for row in rows:
            key = _key_of(row)
            totals = self._rows.get(key)
            if totals is not None and _row(key, totals) == row:
                totals.dirty = False
        oldest = now - _REMEMBER_SECONDS
        for key in [key for key, totals in self._rows.items() if key.bucket < oldest and not totals.dirty]:
            del self._rows[key]
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
        records += [("r", key, *astuple(totals)[:-1]) for key, totals in self._rows.items()]
        records += self._open.values()
        return b"".join(msgspec.json.encode(record) + b"\n" for record in records)

    def _compact(self) -> None:
        """Write all there is anew, and take its place; a failure leaves the old file as it was."""
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
                    entry = Entry(_key(key), Tokens(*counts), bool(error), bool(estimated), (busy, prefill, decode))
                    self._add(entry)
                case ["r", key, *counts]:
                    self._rows[_key(key)] = _Totals(*counts)
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
        """Charge each stream that died with its process once: for what it is known to have used, labelled estimated."""
        for _, _, service, provider, model, price_id, read, written, *more in self._open.values():
            tokens = Tokens(input=read, output=written)
            key = Key(service, provider, model, price_id, self._died_in(), *more)
            self._add(Entry(key, tokens, error=True, estimated=True))
            self.orphans += 1
        self._open.clear()

    def _died_in(self) -> int:
        """The bucket of the journal's last write: when the former process died, as near as can be told."""
        return int(self._path.stat().st_mtime) // names.BUCKET_SECONDS * names.BUCKET_SECONDS


def _row(key: Key, totals: _Totals) -> Row:
    return Row(
        service=key.service,
        provider=key.provider,
        model=key.model,
        price_id=key.price_id,
        bucket=key.bucket,
        requests=totals.requests,
        errors=totals.errors,
        estimated=totals.estimated,
        tokens=totals.tokens,
        context=key.context,
        tier=key.tier,
        labels=Labels(key.feature, key.team, key.cohort),
        busy_ms=totals.busy_ms,
        prefill_ms=totals.prefill_ms,
        decode_ms=totals.decode_ms,
    )


def _key_of(row: Row) -> Key:
    labels = row.labels
    return Key(
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


def _key(value: list[Any]) -> Key:
    service, provider, model, price_id, bucket, *more = value
    return Key(service, provider, model, price_id, int(bucket), *more)
