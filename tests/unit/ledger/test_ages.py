"""No honest proxy can tell of what was used before its pod was there."""

from llmwarden.ledger.http import ages
from llmwarden.ledger.store.counts import Counts
from tests.unit.ledger.objects import BUCKET
from tests.unit.ledger.test_merge import report, row


def test_one_bucket_before_the_pod_is_taken_and_none_before_that() -> None:
    sent = report(*(row(Counts(requests=1), bucket=BUCKET - 900 * number) for number in range(4)))
    taken, left_out = ages.take(sent, BUCKET + 5)
    assert ([one.bucket for one in taken.rows], left_out) == ([BUCKET, BUCKET - 900], 2)
    assert ages.take(sent, 0) == (sent, 0)
