"""Fixtures of the ledger's unit tests."""

import pytest

from llmwarden.ledger.core import Core
from llmwarden.ledger.pricing import Catalogue
from tests.unit.ledger.objects import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def core(clock: FakeClock) -> Core:
    return Core(Catalogue(), {}, clock, 5.0)
