"""`make bench-webhook`, or `python -m benchmarks.webhook [--services 0 1000 10000]`.

Fills a real API server with LLMServices, starts the webhook as a process beside it, sends it reviews over TLS as the API server does, one after the
other on one connection, and says what memory it takes, how soon it is ready and how long a review takes. A baseline is another
checkout's `operator` folder, measured on the same objects: `--source DIR`.
"""

import argparse
import asyncio
import base64
import contextlib
import datetime as dt
import http.client
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.webhook import objects
from cluster import Cluster
from llmwarden import kube, names
from llmwarden.serving import pki
from tests.api.support import ControlPlane

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "build" / "bench" / "webhook.json"
NAMESPACE: Final = "bench-webhook"  # of the webhook itself
TICKS: Final = os.sysconf("SC_CLK_TCK")
WRITERS: Final = 24  # writes to the API server at a time
LIMIT_MIB: Final = 128  # at ten thousand services
LIMIT_P99_MS: Final = 10.0
CROWD: Final = 64  # reviews at a time in a burst
LARGEST: Final = 250_000  # bytes of a pod's annotations: 256 KiB are the most
MEBIBYTE: Final = 1024  # KiB


def main() -> int:
    """Run; returns 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webhook")
    parser.add_argument("--services", type=int, nargs="+", default=[0, 1000, 10_000])
    parser.add_argument("--namespaces", type=int, default=50)
    parser.add_argument("--reviews", type=int, default=2000)
    parser.add_argument("--cluster", default="", help="a control plane that is up, and is left up; else one is made")
    parser.add_argument(
        "--source", type=Path, nargs="+", default=[ROOT / "operator"], help="operator folders to measure"
    )
    options = parser.parse_args()
    cluster = Cluster(options.cluster or "bench-webhook", "control-plane")
    cluster.up()
    try:
        plane = ControlPlane.of(cluster)
        plane.apply_crds()
        found = list(measure_all(cluster.kubeconfig, options))
    finally:
        if not options.cluster:
            cluster.down()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    ours = [one for one in found if one["source"] == str(options.source[-1])]
    return int(any(one["mib"] > LIMIT_MIB or one["p99_ms"] > LIMIT_P99_MS for one in ours))


def measure_all(kubeconfig: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every size and source, smallest size first."""
    there = 0
    ca = asyncio.run(prepare(kubeconfig, options.namespaces))
    for size in sorted(options.services):
        asyncio.run(fill(kubeconfig, there, size, options.namespaces))
        there = max(there, size)
        for source in options.source:
            found = {"source": str(source), "services": size, **measure(kubeconfig, ca, source, size, options)}
            say(json.dumps(found))
            yield found


async def prepare(kubeconfig: Path, namespaces: int) -> str:
    """Make the namespaces and the webhook's certificate, and take away what an earlier run left; returns the CA."""
    now = dt.datetime.now(dt.UTC)
    ca = pki.make_ca(now)
    leaf = pki.make_leaf(ca, ["localhost"], now)
    data = {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": ca.certificate}
    async with await kube.connect(str(kubeconfig)) as client:
        for name in (NAMESPACE, *(objects.namespace_of(number, namespaces) for number in range(namespaces))):
            await client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await client.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": names.SECRET_WEBHOOK_TLS, "namespace": NAMESPACE},
                "type": "kubernetes.io/tls",
                "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
            }
        )
    return ca.certificate


async def fill(kubeconfig: Path, first: int, end: int, namespaces: int) -> None:
    """Write services with their status, unless they are there already."""
    status = objects.status()
    async with await kube.connect(str(kubeconfig)) as client:
        known = await names_of(client)
        missing = [number for number in range(first, end) if objects.name_of(number) not in known]

        async def write(number: int) -> None:
            made = objects.service(number, namespaces)
            await client.apply(made, field_manager=objects.USER)
            told = {**made, "status": status}
            del told["spec"]
            await client.apply(told, field_manager=objects.OPERATOR, subresource="status")

        begun = time.monotonic()
        await side_by_side(write, missing)
    if missing:
        say(f"{len(missing)} services written in {time.monotonic() - begun:.0f} s")


async def names_of(client: kube.Client) -> set[str]:
    """Names of all LLMServices, read page by page."""
    found: set[str] = set()
    token = ""
    while True:
        page = await client.page(names.API_VERSION, "llmservices", continue_token=token)
        found.update(item["metadata"]["name"] for item in page.items)
        token = page.continue_token
        if not token:
            return found


async def side_by_side(work: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
    """Do something for every number, WRITERS at a time."""
    rest = iter(numbers)

    async def one() -> None:
        for number in rest:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(one())


def measure(kubeconfig: Path, ca: str, source: Path, size: int, options: argparse.Namespace) -> dict[str, float]:
    """One process, from its start over its reviews."""
    with started(kubeconfig, source) as (process, port, health):
        begun = time.monotonic()
        until_ready(process, health)
        ready = time.monotonic() - begun
        idle = memory(process.pid, "VmRSS")
        before = cpu(process.pid)
        times = sorted(reviews(port, ca, size, options))
        took = cpu(process.pid) - before
        after = memory(process.pid, "VmRSS")
        burst(port, ca, options.namespaces)
        return {
            "ready_s": round(ready, 2),
            "ready_cpu_s": round(before, 2),
            "ready_mib": idle,
            "mib": after,
            "burst_mib": memory(process.pid, "VmHWM"),
            "p50_ms": round(times[len(times) // 2] * 1000, 2),
            "p99_ms": round(times[len(times) * 99 // 100] * 1000, 2),
            "cpu_ms": round(took / len(times) * 1000, 2),
        }


@contextmanager
def started(kubeconfig: Path, source: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int, int]]:
    """The webhook as a process; yields its ports for reviews and for health."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.webhook.server", NAMESPACE],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONPATH": f"{source}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None  # noqa: S101 - a pipe
    https, metrics = process.stdout.readline().split()
    try:
        yield process, int(https), int(metrics)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def until_ready(process: "subprocess.Popen[bytes]", port: int, seconds: float = 300.0) -> None:
    """Wait until /readyz says so. Raises TimeoutError, and RuntimeError where the process ends."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if process.poll() is not None:
            message = f"the webhook ended with status {process.returncode}"
            raise RuntimeError(message)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == http.client.OK:
                return
        time.sleep(0.02)
    raise TimeoutError


def reviews(port: int, ca: str, size: int, options: argparse.Namespace) -> Iterator[float]:
    """Seconds of each review: of pods that a service selects, where there is one. Raises RuntimeError where one is not injected."""
    chance = random.Random(1)  # noqa: S311 - no secret
    connection = connected(port, ca)
    for _ in range(options.reviews):
        body = objects.review(objects.pod(chance.randrange(max(size, 1)), options.namespaces))
        begun = time.perf_counter()
        answer = ask(connection, body)
        yield time.perf_counter() - begun
        if size and "patch" not in json.loads(answer)["response"]:
            message = f"a pod was not injected: {answer[:300]!r}"
            raise RuntimeError(message)


def burst(port: int, ca: str, namespaces: int) -> None:
    """Reviews of pods as large as their annotations may be, CROWD at a time: what a Deployment of many replicas brings at worst."""
    made = objects.pod(0, namespaces)
    made["metadata"]["annotations"]["note"] = "x" * LARGEST
    body = objects.review(made)

    def one(_: int) -> None:
        connection = connected(port, ca)
        for _ in range(4):
            ask(connection, body)
        connection.close()

    with ThreadPoolExecutor(CROWD) as pool:
        list(pool.map(one, range(CROWD)))


def connected(port: int, ca: str) -> http.client.HTTPSConnection:
    """A connection over TLS, as the API server's."""
    tls = ssl.create_default_context(cadata=ca)
    connection = http.client.HTTPSConnection("localhost", port, context=tls, timeout=60)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(connection: http.client.HTTPSConnection, body: bytes) -> bytes:
    """Send a review; returns the answer."""
    connection.request("POST", names.WEBHOOK_PATH, body, {"Content-Type": "application/json"})
    return connection.getresponse().read()


def memory(pid: int, what: str) -> float:
    """MiB of a process, of a line of its status."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith(what))
    return round(int(line.split()[1]) / MEBIBYTE, 1)


def cpu(pid: int) -> float:
    """Seconds of CPU of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
