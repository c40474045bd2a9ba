"""How the ledger's answer is shown."""

import datetime as dt
import io

import msgspec
import pytest
from rich.console import Console

from llmwarden.cli import cluster, cost
from llmwarden.contracts import ledger as wire
from llmwarden.contracts.spend import By, Spend, SpendRow
from llmwarden.errors import InvalidSpecError
from llmwarden.ledger.rating.spend import gpu_spend

CENT = 10**10
START = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


def row(by: dict[str, str], picodollars: int = 0, uncosted: int = 0) -> SpendRow:
    tokens = wire.Tokens(input=12_000_000, output=345)
    return SpendRow(
        by=by, requests=1234, errors=1, tokens=tokens, picodollars=picodollars, usd="", uncosted_tokens=uncosted
    )


def answer(by: tuple[By, ...], *rows: SpendRow) -> Spend:
    total = row({}, sum(one.picodollars for one in rows), sum(one.uncosted_tokens for one in rows))
    return Spend(start=START, end=START + dt.timedelta(hours=4), by=by, rows=rows, total=total)


def shown(spend: Spend, by: tuple[By, ...]) -> str:
    text = io.StringIO()
    Console(file=text, width=160).print(cost.table(spend, by))
    return text.getvalue()


def test_hours_that_were_added_become_a_sparkline() -> None:
    hour = "2026-11-20T{:02}:00:00Z".format
    spend = answer(
        ("service", "hour"),
        row({"service": "shop/a", "hour": hour(12)}, 10 * CENT),
        row({"service": "shop/b", "hour": hour(13)}, 500 * CENT),
        row({"service": "shop/a", "hour": hour(15)}, 80 * CENT),
    )
    text = shown(spend, ("service",))
    first, second = (line for line in text.splitlines() if "shop/" in line)
    assert "shop/b" in first
    assert "$5.00" in first
    assert "85 %" in first
    assert "shop/a" in second
    assert "$0.90" in second
    assert "▁  █" in second
    assert "2,468" in second
    assert "24.0M" in second
    assert "$5.90" in text


def test_what_has_no_price_is_a_question_mark_never_zero() -> None:
    text = shown(answer(("model",), row({"model": "weird"}, uncosted=77)), ("model",))
    line = next(line for line in text.splitlines() if "weird" in line)
    assert "?" in line
    assert "$0" not in line
    assert "77" in line


def test_a_model_s_name_is_no_markup() -> None:
    assert "[red]x[/red]" in shown(answer(("model",), row({"model": "[red]x[/red]"})), ("model",))


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], ""),
        ([0, 0], ""),
        ([0, 1, 8], " ▁█"),
        ([1] * 48, "█" * 24),
        ([0] * 24 + [5], " " * 12 + "█"),
    ],
)
def test_sparklines(values: list[int], drawn: str) -> None:
    assert cost.sparkline(values) == drawn


def test_time_is_asked_for_unless_it_was() -> None:
    assert cost.with_time(("model",), dt.timedelta(days=2)) == ("model", "hour")
    assert cost.with_time(("model",), dt.timedelta(days=3)) == ("model", "day")
    assert cost.with_time(("day", "model"), dt.timedelta(days=3)) == ("day", "model")


def test_whose_rights_are_used() -> None:
    assert cluster.accounts("", "shop", "sys") == [("sys", "llmwarden-viewer"), ("shop", "default")]
    assert cluster.accounts("", "", "sys") == [("sys", "llmwarden-viewer")]
    assert cluster.accounts("team/reader", "shop", "sys") == [("team", "reader")]
    assert cluster.accounts("reader", "shop", "sys") == [("shop", "reader")]
    with pytest.raises(InvalidSpecError, match="NAMESPACE/NAME"):
        cluster.accounts("a/b/c", "shop", "sys")


def test_idle_gpus_are_shown_apart() -> None:
    hour = 3_600_000
    idle = gpu_spend("shop/idle", wire.GpuUsage(milliseconds=4 * hour, picodollars=400 * CENT, idle=400 * CENT))
    busy = gpu_spend("shop/busy", wire.GpuUsage(milliseconds=hour // 3, picodollars=30 * CENT, idle=10 * CENT))
    spend = msgspec.structs.replace(answer(("service",)), gpu=(busy, idle))
    held = cost.gpus(spend)
    assert held is not None
    text = io.StringIO()
    Console(file=text, width=120).print(held)
    lines = [line.split() for line in text.getvalue().splitlines() if "shop/" in line]
    assert lines == [
        ["shop/idle", "4", "$4.00", "$0.00", "$4.00", "100", "%"],
        ["shop/busy", "0.33", "$0.30", "$0.20", "$0.10", "33", "%"],
    ]
    assert cost.gpus(answer(("service",))) is None
