"""History that a new price rated again: shown in the status, said once in an Event."""

import datetime as dt
from dataclasses import replace

import msgspec
import pytest

from llmwarden import status as statuses
from llmwarden.api.v1alpha1.llmservice import InjectionStatus, LLMServiceStatus
from llmwarden.contracts.ledger import Rerating
from llmwarden.ledger.core import Core
from llmwarden.ledger.rating.pricing import Catalogue
from llmwarden.ledger.store import Delta
from llmwarden.ledger.store.counts import Counts
from llmwarden.snapshot import Outcome
from tests.unit.ledger.objects import BUCKET, FakeClock, model_price, view_of
from tests.unit.ledger.objects import service as ledger_service
from tests.unit.status.helpers import NOW, snapshot, usage

CENT = 10**10


def after(change: Rerating | None, old: LLMServiceStatus | None = None) -> LLMServiceStatus:
    given = snapshot(usage=msgspec.structs.replace(usage(), rerated=change))
    given = replace(given, service=given.service.replace(status=old))
    return statuses.build(given, Outcome(), InjectionStatus(), NOW)


def test_the_change_is_in_the_status_and_said_once() -> None:
    before = after(None)
    assert before.usage is not None
    assert before.usage.rerated is None
    status = after(Rerating(NOW, 125 * CENT, 2_200_000), before)
    assert status.usage is not None
    assert status.usage.rerated is not None
    assert status.usage.rerated.dump() == {"at": "2026-11-21T12:00:00Z", "change": "1.25", "tokens": 2_200_000}
    assert statuses.rerated(before, status) == (
        "A price was added, so past usage was priced again: $1.25 more was spent (2,200,000 tokens that had no price)."
    )
    assert statuses.rerated(status, after(Rerating(NOW, 125 * CENT, 2_200_000), status)) == ""


def test_another_replica_that_tells_its_own_time_or_nothing_is_no_news() -> None:
    status = after(Rerating(NOW, 125 * CENT, 5))
    later = after(Rerating(NOW + dt.timedelta(seconds=1), 125 * CENT, 5), status)
    assert statuses.rerated(status, later) == ""
    silent = after(None, status)
    assert silent.usage == status.usage
    assert statuses.rerated(status, silent) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Rerating(NOW, -3 * CENT, 0), "$0.03 less was spent (0 tokens that had no price)."),
        (Rerating(NOW, -3 * CENT, -7), "$0.03 less was spent (7 tokens lost their price)."),
    ],
)
def test_less_is_said_as_less(change: Rerating, said: str) -> None:
    assert statuses.rerated(after(None), after(change)).endswith(said)


def test_a_ledger_that_starts_tells_of_no_change() -> None:
    """It has read no ModelPrice before: that history is rated by one now is no news to anybody."""
    core = Core(Catalogue(), {}, FakeClock(), 5.0)
    priced = model_price("own", ["weird"], ("2026-01-01T00:00:00Z", "1", "1"))
    core.rebuild([Delta("shop/bot", "openai", "weird", None, BUCKET, Counts(requests=1, input=1_000_000))], {})
    core.configure(view_of(ledger_service(), priced))
    assert core.history.aggregate.total("shop/bot").picodollars == 10**12
    assert core.history.rerated == {}
    assert core.history.rerated_picodollars == 0
    dearer = model_price("own", ["weird"], ("2026-01-01T00:00:00Z", "3", "3"))
    core.configure(view_of(ledger_service(), dearer))
    assert core.history.rerated["shop/bot"].picodollars == 2 * 10**12
