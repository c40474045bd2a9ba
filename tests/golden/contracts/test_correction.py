"""What `/v1/corrections` takes and answers: what `kubectl llm writeoff` writes is what the ledger reads, and the other way round."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from llmwarden.contracts import ledger as wire
from llmwarden.contracts.correction import Correction, Corrections, Order
from tests.golden.contracts import promise
from tests.unit.ledger.objects import NOW

ORDER = Order(
    contract=1, id="3f6c1c9e-0001", action="WriteOff", service="shop/bot", start=NOW - dt.timedelta(days=1), end=NOW, reason="forged",
    model="gpt", pod="bot-0", quarantined_only=True, picodollars=5, tokens=6, on_behalf_of="ada", dry_run=True,
)  # fmt: skip
DONE = Correction(ORDER, NOW, "llmwarden-system:llmwarden-corrector", 3, wire.Tokens(1000, 200, 100, 50, 20, 10, 5, 4), 123_456, "0.000000123456", 7, True)  # fmt: skip  # noqa: FBT003
EXAMPLES: dict[str, msgspec.Struct] = {
    "correction-order": ORDER,
    "correction": DONE,
    "corrections": Corrections((DONE,)),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_version_is_written_as_it_was(golden: Callable[[Path, str], None], name: str) -> None:
    assert promise.unsaid(EXAMPLES[name]) == []
    promise.check(golden, name, msgspec.json.encode(EXAMPLES[name]).decode())


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_version_is_read(name: str) -> None:
    for path in promise.versions(name):
        promise.read(path, msgspec.json.decode(path.read_bytes(), type=type(EXAMPLES[name])), EXAMPLES[name])
