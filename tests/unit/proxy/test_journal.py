"""The journal over deaths, torn writes, full disks and other pods."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from llmwarden.contracts.ledger import Labels, Tokens
from llmwarden.proxy.money.journal import OTHER, AccountKey, Journal

KEY = AccountKey("bot", "openai", "m", "p", 900)


def add(journal: Journal, count: int = 1, key: AccountKey = KEY, number: int = 0) -> None:
    journal.add(journal.account(key), Tokens(input=count, output=count), number=number)


def test_totals_and_identity_survive_a_restart(tmp_path: Path) -> None:
    first = Journal(tmp_path, "uid")
    for count in (1, 2, 3):
        add(first, count)
    first.next_sequence()
    second = Journal(tmp_path, "uid")
    assert (second.id, second.next_sequence()) == (first.id, 2)
    assert second.pending(10) == first.pending(10)
    add(second, 4)
    [row] = Journal(tmp_path, "uid").pending(10)
    assert (row.requests, row.tokens) == (4, Tokens(input=10, output=10))


def test_another_pod_begins_anew(tmp_path: Path) -> None:
    first = Journal(tmp_path, "uid")
    add(first)
    second = Journal(tmp_path, "other-uid")
    assert second.id != first.id
    assert second.pending(10) == ()


def test_a_stream_that_died_is_charged_once_and_labelled(tmp_path: Path) -> None:
    first = Journal(tmp_path, "uid")
    number = first.open(KEY, Tokens(input=5))
    first.progress(number, 40)
    done = first.open(KEY, Tokens(input=5))
    add(first, 3, number=done)
    for _ in range(3):
        again = Journal(tmp_path, "uid")
        total = again.pending(10)
        assert sum(row.requests for row in total) == 2
        assert sum(row.errors for row in total) == sum(row.estimated for row in total) == 1
        assert sum(row.tokens.output for row in total) == 43
        assert sum(row.tokens.input for row in total) == 8


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.integers(0, 400))
def test_a_file_torn_anywhere_loses_only_its_end(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    first = Journal(tmp_path, "uid")
    for _ in range(5):
        add(first)
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    path.write_bytes(whole[: max(header, len(whole) - cut)])
    kept = path.read_bytes()[header:].count(b"\n")
    torn = path.read_bytes()[-1:] != b"\n"
    again = Journal(tmp_path, "uid")
    requests = sum(row.requests for row in again.pending(10))
    assert kept <= requests <= kept + torn  # a line that lacks only its newline is whole
    assert again.skipped == (kept + torn) - requests
    assert again.id == first.id


def test_garbage_between_lines_is_skipped_and_counted(tmp_path: Path) -> None:
    first = Journal(tmp_path, "uid")
    add(first)
    with (tmp_path / "journal").open("ab") as file:
        file.write(b'\n["c",0,["too","short"],0,0,[1]]\n{}\nnonsense\n["zz"]\n')
    add(first)
    again = Journal(tmp_path, "uid")
    assert again.skipped == 4
    assert again.pending(10)[0].requests == 2


def test_a_full_disk_is_counted_and_made_good_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, "uid")
    add(journal)
    real = os.write

    def full(_file: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("llmwarden.proxy.money.journal.os.write", full)
    add(journal)
    add(journal)
    assert journal.errors == 2
    assert journal.pending(10)[0].requests == 3
    assert Journal(tmp_path / "nowhere", "uid").errors == 1
    monkeypatch.setattr("llmwarden.proxy.money.journal.os.write", lambda file, data: real(file, data[: len(data) // 2]))
    add(journal)
    assert journal.errors == 3
    monkeypatch.setattr("llmwarden.proxy.money.journal.os.write", real)
    add(journal)
    assert Journal(tmp_path, "uid").pending(10)[0].requests == 5


def test_only_what_changed_is_pending_and_the_oldest_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "uid")
    late = AccountKey("bot", "openai", "m", "p", 1800)
    add(journal, key=late)
    add(journal)
    sent = journal.pending(10)
    assert [row.bucket for row in sent] == [900, 1800]
    assert len(journal.pending(1)) == 1
    add(journal, key=late)  # while the report is on its way
    journal.acknowledge(sent, now=2000)
    [row] = journal.pending(10)
    assert (row.bucket, row.requests) == (1800, 2)


def test_totals_that_are_forgotten_say_so_to_whoever_remembers_them(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "uid")
    account = journal.account(KEY)
    assert account.fits("openai", "p", 900, 0, "", Labels())
    assert not account.fits("azure", "p", 900, 0, "", Labels())
    assert not account.fits("openai", None, 900, 0, "", Labels())
    assert not account.fits("openai", "p", 1800, 0, "", Labels())
    assert not account.fits("openai", "p", 900, 1000, "", Labels())
    assert not account.fits("openai", "p", 900, 0, "batch", Labels())
    assert not account.fits("openai", "p", 900, 0, "", Labels(team="web"))
    add(journal)
    journal.acknowledge(journal.pending(10), now=900 + 4 * 3600)
    assert not account.fits("openai", "p", 900, 0, "", Labels())
    assert journal.account(KEY) is not account


def test_what_closed_long_ago_is_forgotten_but_not_what_a_clock_could_come_back_to(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "uid")
    add(journal)
    journal.acknowledge(journal.pending(10), now=900 + 2 * 3600)
    add(journal)  # the clock went back: the row goes on
    assert journal.pending(10)[0].requests == 2
    journal.acknowledge(journal.pending(10), now=900 + 4 * 3600)
    assert Journal(tmp_path, "uid").pending(10)[0].requests == 2  # the file is rewritten later
    add(journal)
    assert journal.pending(10)[0].requests == 1


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "uid")
    for _ in range(60_000):
        add(journal)
    assert (tmp_path / "journal").stat().st_size < 5 * 1024 * 1024
    assert Journal(tmp_path, "uid").pending(10)[0].requests == 60_000


def test_context_tier_labels_and_all_kinds_survive(tmp_path: Path) -> None:
    tokens = Tokens(9, 1, 4, 7, 2, 3, 1, 1)
    key = AccountKey("bot", "anthropic", "m", None, 900, 200_000, "batch", "search", "web", "beta")
    first = Journal(tmp_path, "uid")
    first.add(first.account(key), tokens)
    first.open(key, Tokens(input=5))
    [row, died] = sorted(Journal(tmp_path, "uid").pending(10), key=lambda row: row.errors)
    assert (row.tokens, row.context, row.tier, row.labels) == (
        tokens,
        200_000,
        "batch",
        Labels("search", "web", "beta"),
    )
    assert (died.tokens, died.context, died.tier, died.labels) == (Tokens(5), 200_000, "batch", row.labels)


@pytest.mark.parametrize("kind", Tokens.__struct_fields__)
def test_every_kind_that_the_wire_has_is_counted_and_survives(tmp_path: Path, kind: str) -> None:
    """`wire.Tokens` is the table of kinds; the journal's sums are written out for speed, and must have them all."""
    assert set(Tokens.__struct_fields__) <= {
        name for name in dir(Journal(tmp_path / "a", "uid").account(KEY)) if name[0] != "_"
    }
    wholes = {"cache_write_1h": {"cache_write": 5}}
    tokens = Tokens(**{"input": 5, "output": 5, **wholes.get(kind, {}), kind: 5})
    first = Journal(tmp_path, "uid")
    first.add(first.account(KEY), tokens)
    first.add(first.account(KEY), tokens)
    doubled = Tokens(*(2 * value for value in astuple(tokens)))
    for journal in (first, Journal(tmp_path, "uid")):
        [row] = journal.pending(10)
        assert row.tokens == doubled


def test_a_journal_of_an_older_version_goes_on(tmp_path: Path) -> None:
    lines = [
        b'["h",1,"id","uid",4]',
        b'["r",["bot","openai","m","p",900],3,1,0,10,0,0,20,0]',
        b'["c",0,["bot","openai","m","p",900],0,0,[1,0,0,2,0]]',
        b'["o",1,"bot","openai","m","p",5,6]',
    ]
    (tmp_path / "journal").write_bytes(b"\n".join(lines) + b"\n")
    journal = Journal(tmp_path, "uid")
    assert (journal.id, journal.sequence, journal.skipped, journal.orphans) == ("id", 4, 0, 1)
    assert sum(row.requests for row in journal.pending(10)) == 5
    assert sum(row.tokens.output for row in journal.pending(10)) == 28


def test_labels_from_outside_are_bounded(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "uid")
    found = {journal.bounded(900, Labels(feature=str(number))) for number in range(1000)}
    assert len(found) == 201
    assert OTHER in found
    assert journal.bounded(900, Labels(feature="3")) == Labels(feature="3")
    assert journal.bounded(1800, Labels(feature="999")) == Labels(feature="999")
