"""Tells the ledger which pods hold GPUs. What was told once is merged there: telling it again changes nothing."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from llmwarden import names
from llmwarden.contracts import ledger as wire

AT_ONCE: Final = 1000  # pods in one report: well below the ledger's megabyte

Post = Callable[[str, bytes], Awaitable[None]]
"""Posts a body to a path of the ledger. Raises UnavailableError."""


async def tell(post: Post, pods: Sequence[wire.GpuPod]) -> None:
    """Tell all. Raises UnavailableError; what was told before that counts."""
    for start in range(0, len(pods), AT_ONCE):
        report = wire.GpuReport(contract=names.CONTRACT, pods=tuple(pods[start : start + AT_ONCE]))
        await post("/v1/gpus", msgspec.json.encode(report))
