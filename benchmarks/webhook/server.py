"""The role `webhook` on any free ports, which it prints: `python -m benchmarks.webhook.server NAMESPACE`, with KUBECONFIG.

Everything is production's but the ports, which may be another's on this machine. It makes its sockets itself: one that is inherited is another
kind of object in Python, for which asyncio sets other options.
"""

import dataclasses
import os
import sys

import uvloop

from llmwarden import kube
from llmwarden.serving.servers import listen, start_logging, stop_on_signals
from llmwarden.settings import load
from llmwarden.webhook.main import run


async def main(namespace: str) -> None:
    """Serve until SIGTERM."""
    stop = stop_on_signals()
    https, metrics = listen("127.0.0.1", 0), listen("127.0.0.1", 0)
    sys.stdout.write(f"{https.getsockname()[1]} {metrics.getsockname()[1]}\n")
    sys.stdout.flush()
    async with await kube.connect() as client:
        await run(
            dataclasses.replace(load(os.environ), namespace=namespace), client, stop, sock=https, metrics_sock=metrics
        )


if __name__ == "__main__":
    start_logging("WARNING")
    uvloop.run(main(sys.argv[1]))
