from typing import Any

import pytest

from demo import compare

CLIENT: dict[str, Any] = {
    "requests": {"200": 100, "429": 5},
    "tokens": {"input": 1_000, "output": 8_000},
    "ttftP95": 0.2,
    "durationP95": 1.0,
}
PRICES = (0.10, 0.40)


def status(**usage: Any) -> dict[str, Any]:
    return {
        "usage": {
            "requests": 110,
            "errors": 10,
            "tokens": {"input": 1_000, "output": 8_000},
            "cost": {"amount": "0.0033", "currency": "USD"},
            **usage,
        },
        "latency": {"timeToFirstToken": {"p95Milliseconds": 205}, "requestDuration": {"p95Milliseconds": 1000}},
    }


def differences(rows: list[compare.Row]) -> dict[str, float | None]:
    return {row.name: row.difference_percent for row in rows}


def test_the_same_figures_agree_in_total_and_per_call() -> None:
    for whole in (True, False):
        rows = compare.rows(CLIENT, status(), PRICES, whole=whole)
        assert all(row.agrees() for row in rows), compare.table(rows)


def test_missing_calls_show_in_totals() -> None:
    rows = compare.rows(CLIENT, status(requests=100), PRICES, whole=True)
    assert differences(rows)["calls"] == pytest.approx(10)
    assert not all(row.agrees() for row in rows)


def test_a_wrong_price_shows_per_call_too() -> None:
    rows = compare.rows(CLIENT, status(cost={"amount": "0.0040"}), PRICES, whole=False)
    assert [row.name for row in rows if not row.agrees()] == ["cost per call"]


def test_unknown_never_agrees_and_is_not_zero() -> None:
    empty: dict[str, Any] = {}
    rows = compare.rows(CLIENT, empty, PRICES, whole=True)
    unknown = {row.name: row.warden for row in rows}
    assert unknown["cost"] is None
    assert unknown["duration, p95"] is None
    assert not any(row.agrees() for row in rows)


def test_the_table_says_what_is_unknown() -> None:
    text = compare.table(compare.rows(CLIENT, {}, PRICES, whole=True))
    assert "unknown" in text
