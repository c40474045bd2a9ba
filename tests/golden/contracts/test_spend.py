"""What `GET /v1/spend` answers: what the ledger writes is what `kubectl llm cost` reads."""

import datetime as dt
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from llmwarden import kube, names
from llmwarden.cli import cost
from llmwarden.clients.ledger import ApiServerClient
from llmwarden.contracts import ledger as wire
from llmwarden.contracts.spend import DIMENSIONS, Spend, SpendRow, as_csv
from llmwarden.domain.cost import Rates
from llmwarden.ledger.rating.rater import Rater
from llmwarden.ledger.rating.spend import gpu_spend, summarise
from llmwarden.ledger.store.counts import Counts
from llmwarden.ledger.store.model import RowKey
from llmwarden.ledger.store.queries import Sum
from llmwarden.serving import answers
from tests.golden.contracts import promise
from tests.unit.ledger.objects import BUCKET, NOW

TOKENS = wire.Tokens(1000, 200, 100, 50, 20, 10, 5, 4)
ROW = SpendRow(
    {dimension: f"a {dimension}" for dimension in DIMENSIONS},
    3,
    1,
    TOKENS,
    123_456,
    "0.000000123456",
    uncosted_tokens=7,
    quarantined_picodollars=50,
    quarantined_tokens=6,
    written_off_picodollars=40,
    written_off_tokens=5,
)
GPU = gpu_spend("shop/chat", wire.GpuUsage(7_200_000, 4 * 10**12, 10**12, 5 * 10**11, unpriced_milliseconds=3_600_000))
EXAMPLE = Spend(NOW, NOW + dt.timedelta(hours=1), DIMENSIONS, (ROW,), ROW, (GPU,))


class ApiServer:
    """Answers as the API server does, which passes on what the ledger said."""

    def __init__(self, said: bytes) -> None:
        self.said = said

    async def request_bytes(self, method: str, path: str, *_: Any, headers: Mapping[str, str], max_bytes: int) -> bytes:
        assert (method, headers) == ("GET", {names.HEADER_TOKEN: "token"})
        assert path.endswith("/services/https:llmwarden-ledger:https/proxy/v1/spend")
        assert len(self.said) < max_bytes
        return self.said


async def test_kubectl_llm_reads_what_the_ledger_writes() -> None:
    price = Rates(wire.Picodollars(150, 600, 75, 190))
    sums = [
        Sum(
            RowKey("shop", "bot", "openai", "gpt", "one", 0, "", "", "", ""),
            BUCKET,
            "",
            Counts(requests=2, input=10, output=5),
        )
    ]
    written = await summarise(
        sums, ("service", "hour"), span=(BUCKET, BUCKET + 900), rater=Rater(lambda _: price, lambda *_: None)
    )
    written = msgspec.structs.replace(written, gpu=(GPU,))
    server = cast("kube.Client", ApiServer(bytes(answers.as_json(written).body)))
    read = await ApiServerClient(server, "llmwarden-system", "token").spend({})
    assert read == written
    assert read.total.picodollars == 10 * 150 + 5 * 600
    assert read.total.tokens == wire.Tokens(10, output=5)
    assert cost.gpus(read) is not None


def test_every_version_is_written_as_it_was(golden: Callable[[Path, str], None]) -> None:
    assert promise.unsaid(EXAMPLE) == []
    promise.check(golden, "spend", msgspec.json.encode(EXAMPLE).decode())
    golden(promise.HERE / promise.PRESENT / "spend.csv", as_csv(EXAMPLE))


@pytest.mark.parametrize("path", promise.versions("spend"), ids=lambda path: path.parent.name)
def test_every_version_is_read(path: Path) -> None:
    promise.read(path, msgspec.json.decode(path.read_bytes(), type=Spend), EXAMPLE)
