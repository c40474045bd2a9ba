"""How long a pod's own model was at work, and how that gets into the report."""

import time
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.contracts.ledger import Picodollars, Price, Tokens
from llmwarden.proxy.money.busy import Busy
from llmwarden.proxy.money.journal import AccountKey, Journal
from llmwarden.proxy.money.prices import PriceBook
from tests.unit.proxy.support import JSON, begin, rows, service, stream, value

calls = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 3000)), max_size=40)


@given(calls)
def test_overlaps_count_once(made: list[tuple[int, int]]) -> None:
    busy = Busy()
    told = sum(
        busy.add(start / 1000, (start + length) / 1000)
        for start, length in sorted(made, key=lambda call: call[0] + call[1])
    )
    covered = {moment for start, length in made for moment in range(start, start + length)}
    assert abs(told - len(covered)) <= 1


def test_many_stretches_are_remembered_roughly_and_never_counted_twice() -> None:
    busy = Busy()
    told = sum(busy.add(start, start + 0.5) for start in range(200))
    assert told == 100_000
    assert told + busy.add(0.0, 200.0) <= 200_000


def test_prefill_and_decode_are_told_apart_by_the_first_token() -> None:
    assert Busy().times(10.0, 12.0, 0.5, 0.1, 7) == (2000, 400, 1500)
    assert Busy().times(10.0, 12.0, None, 0.0, 7) == (2000, 0, 0)
    assert Busy().times(10.0, 12.0, None, 0.5, 0) == (2000, 1500, 0)  # an embedding


def test_times_survive_a_restart_and_older_lines_are_read(tmp_path: Path) -> None:
    key = AccountKey("chat", "vllm", "m", None, 900)
    first = Journal(tmp_path, "uid")
    first.add(first.account(key), Tokens(input=1, output=2), times=(30, 10, 20))
    first.add(first.account(key), Tokens(input=1, output=2))
    for _ in range(2):  # from its lines, and from the snapshot that was made of them
        [row] = Journal(tmp_path, "uid").pending(10)
        assert (row.requests, row.tokens) == (2, Tokens(input=2, output=4))
        assert (row.busy_ms, row.prefill_ms, row.decode_ms) == (30, 10, 20)
    path = tmp_path / "journal"
    header = path.read_bytes().split(b"\n")[0]
    path.write_bytes(header + b'\n["r",["chat","vllm","m",null,900],1,0,0,5,0,0,6,0,0,0,0]\n')
    [row] = Journal(tmp_path, "uid").pending(10)
    assert (row.tokens, row.busy_ms) == (Tokens(input=5, output=6), 0)


def test_a_provisional_price_gates_and_is_not_named(tmp_path: Path) -> None:
    book = PriceBook()
    numbers = Picodollars(input=3, output=4, cached_input=3, cache_write=3)
    book.put("chat", "m", "g", Price(contract=1, picodollars=numbers, provisional=True))
    quote = book.get("chat", "m", "g", 0.0)
    assert quote is not None
    assert quote.price_id is not None
    assert quote.cost(Tokens(input=10, output=10), "") == 70
    metered = service(tmp_path)
    metered.shared.ledger.prices.put("bot", "m", "", Price(contract=1, picodollars=numbers, provisional=True))
    call, _ = begin(metered, b'{"model":"m","messages":[]}')
    call.answered(200, JSON)
    call.feed(b'{"model":"m","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":10}}')
    call.end()
    assert [row.price_id for row in rows(metered)] == [None]
    assert value(metered, "llmwarden_cost_usd_total") == 70 / 10**12


@pytest.mark.parametrize("mode", ["Env", "Port"])
def test_only_a_route_to_the_pods_own_model_measures_it(tmp_path: Path, mode: Literal["Env", "Port"]) -> None:
    metered = service(tmp_path, backend="VLLM", mode=mode)
    call, _ = begin(metered, b'{"model":"m","stream":true,"messages":[]}')
    time.sleep(0.02)
    stream(call, [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b"data: [DONE]\n\n"])
    [row] = rows(metered)
    if mode == "Env":
        assert (row.busy_ms, row.prefill_ms, row.decode_ms) == (0, 0, 0)
    else:
        assert row.busy_ms >= row.prefill_ms >= 20
