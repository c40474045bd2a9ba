"""Minutes of what `tests/money` does for seconds: a thousand calls at once at a budget's edge, kills and bad roads until the time is up.

`SOAK_SECONDS` (default 120) says how long each of the long ones lasts.
"""

import os
from pathlib import Path

import pytest

from tests import postgresql
from tests.money import scenarios

SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))


@pytest.mark.parametrize("on", ["sqlite", "postgresql"])
async def test_a_thousand_calls_at_once_never_pass_the_limit(tmp_path: Path, on: str) -> None:
    database = postgresql.shared().database() if on == "postgresql" else None
    found = await scenarios.edge(tmp_path, calls=1000, rounds=5, database=database)
    assert found.spent <= found.limit
    assert found.limit - found.spent <= max(found.limit * 2 // 100, scenarios.reservation(150, 400))
    assert found.refused


@pytest.mark.parametrize("on", ["sqlite", "postgresql"])
async def test_killed_at_random_points_for_minutes_everything_is_counted_once(tmp_path: Path, on: str) -> None:
    server = postgresql.shared() if on == "postgresql" else None
    kills = await scenarios.killed(tmp_path, seconds=SECONDS, seed=1, server=server)
    assert kills.kills > SECONDS / 10
    assert not kills.refused


async def test_minutes_on_a_bad_road_change_no_total(tmp_path: Path) -> None:
    found, _ = await scenarios.on_a_bad_road(tmp_path, seconds=SECONDS, seed=1)
    assert found.spent <= found.limit
