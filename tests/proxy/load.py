"""Many calls over kept connections, timed by the client."""

import asyncio
import time

from tests.proxy.fakes import CHAT, post

CALL = post(CHAT, close=False)


async def calls(
    port: int, count: int, *, clients: int = 1, request: bytes = CALL
) -> tuple[dict[str, int], list[float]]:
    """Statuses and how often they came; seconds of each call, ascending. Answers must have a Content-Length."""
    statuses: dict[str, int] = {}
    seconds: list[float] = []

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(number):
            begun = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            await reader.readexactly(int(head.lower().split("content-length: ")[1].split("\r\n")[0]))
            seconds.append(time.perf_counter() - begun)
            status = head.split(" ", 2)[1]
            statuses[status] = statuses.get(status, 0) + 1
            if "connection: close" in head.lower():
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    await asyncio.gather(*(client(count // clients) for _ in range(clients)))
    return statuses, sorted(seconds)


def percentile(ascending: list[float], share: float) -> float:
    return ascending[min(int(len(ascending) * share), len(ascending) - 1)]
