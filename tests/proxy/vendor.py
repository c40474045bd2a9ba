"""A provider that answers each request with the recorded shape that a test picks: simulated, for none of the paid ones can be had here."""

import asyncio
from collections.abc import Callable

from tests.proxy.fakes import ROOT, STREAM_HEAD, Proxy, Received, chunk, whole

RECORDED = ROOT / "tests" / "proxy" / "recorded"
KINDS = ("input", "cached_input", "cache_write", "output", "reasoning", "cache_write_1h", "input_audio", "output_audio")


class Vendor:
    """Answers with what `pick` names for a request: a file, or `(status, file, headers...)`."""

    def __init__(self, pick: Callable[[Received], str | tuple[object, ...]]) -> None:
        self.pick = pick

    async def __call__(self, request: Received, writer: asyncio.StreamWriter) -> None:
        picked = self.pick(request)
        status, name, *headers = (200, picked) if isinstance(picked, str) else picked
        data = (RECORDED / str(name)).read_bytes()
        if not str(name).endswith(".sse"):
            writer.write(whole(int(str(status)), data, *map(str, headers)))
            return
        writer.write(STREAM_HEAD)
        for start in range(0, len(data), 150):  # cut without regard to events
            writer.write(chunk(data[start : start + 150]))
            await writer.drain()
        writer.write(b"0\r\n\r\n")


async def counted(proxy: Proxy) -> dict[str, int]:
    """Tokens by kind since the proxy began, without those that are none."""
    name = "gen_ai_client_token_usage_tokens_total"
    kinds = {kind: await proxy.metric(name, gen_ai_token_type=kind) for kind in KINDS}
    return {kind: int(value) for kind, value in kinds.items() if value}
