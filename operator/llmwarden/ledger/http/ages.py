"""Leaves out of a report what was used before its pod was there: no honest proxy can tell of that."""

from typing import Final

import msgspec

from llmwarden import names
from llmwarden.contracts import ledger as wire

REASON: Final = "before_pod"  # among the reasons why rows are left out


def take(report: wire.Report, born: int) -> tuple[wire.Report, int]:
    """Return the report without rows of buckets older than its pod, and how many were left out.

    `born` is when the pod was created, in seconds since the epoch. One bucket before its own is taken: clocks differ.
    """
    first = born // names.BUCKET_SECONDS * names.BUCKET_SECONDS - names.BUCKET_SECONDS
    if all(row.bucket >= first for row in report.rows):
        return report, 0
    rows = tuple(row for row in report.rows if row.bucket >= first)
    return msgspec.structs.replace(report, rows=rows), len(report.rows) - len(rows)
