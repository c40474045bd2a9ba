"""When pods were created: the API server's word, asked once a pod."""

from typing import Any

import pytest

from llmwarden.contracts import ledger as wire
from llmwarden.errors import ForbiddenError, NotFoundError, UnavailableError
from llmwarden.ledger import births
from llmwarden.ledger.births import PodBirths
from llmwarden.ledger.http import ages
from llmwarden.ledger.store.counts import Counts
from tests.unit.ledger.objects import BUCKET
from tests.unit.ledger.test_merge import report, row

POD = wire.PodRef("shop", "bot-0", "u")


class Api:
    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer = answer
        self.asked = 0

    async def get(self, api_version: str, plural: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        assert (api_version, plural, name, namespace) == ("v1", "pods", "bot-0", "shop")
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def pod(uid: str = "u", created: str | None = "2026-11-20T16:00:00Z") -> dict[str, Any]:
    return {"metadata": {"uid": uid, "creationTimestamp": created}}


@pytest.mark.parametrize(
    ("answer", "born"),
    [
        (pod(), 1_795_190_400),
        # Another pod of that name, one that is gone, one without a time: as old as its first report.
        (pod("v"), 5000),
        (NotFoundError("gone"), 5000),
        (pod(created=None), 5000),
        ({}, 5000),
    ],
)
async def test_a_pod_s_birth_is_asked_for_once(answer: dict[str, Any] | Exception, born: int) -> None:
    api = Api(answer)
    known = PodBirths(api, lambda: 5000.0)
    assert [await known.born(POD) for _ in range(3)] == [born] * 3
    assert api.asked == 1


@pytest.mark.parametrize("error", [UnavailableError("down"), ForbiddenError("no")])
async def test_while_that_is_not_known_a_report_waits(error: Exception) -> None:
    api = Api(error)
    known = PodBirths(api, lambda: 5000.0)
    with pytest.raises(UnavailableError, match="bot-0"):
        await known.born(POD)
    api.answer = pod()
    assert await known.born(POD) == 1_795_190_400


async def test_pods_that_are_long_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(births, "REMEMBERED", 2)
    api = Api(NotFoundError("gone"))
    known = PodBirths(api, lambda: 5000.0)
    for uid in ("a", "b", "c", "a"):
        await known.born(wire.PodRef("shop", "bot-0", uid))
    assert (api.asked, len(known._known)) == (4, 2)


def test_one_bucket_before_the_pod_is_taken_and_none_before_that() -> None:
    sent = report(*(row(Counts(requests=1), bucket=BUCKET - 900 * number) for number in range(4)))
    taken, left_out = ages.take(sent, BUCKET + 5)
    assert ([one.bucket for one in taken.rows], left_out) == ([BUCKET, BUCKET - 900], 2)
    assert ages.take(sent, 0) == (sent, 0)
