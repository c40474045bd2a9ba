"""Fixtures of the ledger's unit tests."""

from pathlib import Path

import pytest

from llmwarden.ledger.core import Core
from llmwarden.ledger.rating.pricing import Catalogue
from tests import postgresql
from tests.unit.ledger.objects import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def core(clock: FakeClock) -> Core:
    return Core(Catalogue(), {}, clock, 5.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What a Store is opened with: each of both."""
    return str(tmp_path / "ledger.sqlite3") if request.param == "sqlite" else postgresql.shared().database()
