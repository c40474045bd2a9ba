"""`make bench-dashboards`, or `python -m benchmarks.dashboards [--services 1000] [--hours 6]`.

Asks a real Prometheus every query of both dashboards as Grafana does, over all hours at the step that a panel's width gives, and says which take
longest. Then what evaluating one service's rules takes. Not in it: Grafana, and a Prometheus that scrapes at the same time.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.dashboards import series
from image import packages
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.desired.dashboards import overview, service
from llmwarden.desired.dashboards.delivery import to_json
from llmwarden.desired.params import Params
from llmwarden.desired.rules import rules
from llmwarden.desired.snapshot import Capabilities
from llmwarden.domain import budgets, objectives
from llmwarden.settings import Settings

SLICE: Final = 2 * 3600  # a block of Prometheus
POINTS: Final = 600  # that a panel a third of a screen wide asks for
LIMIT_SECONDS: Final = 1.0
SHOWN: Final = 12
REPEATS: Final = 3


def main() -> int:
    """Run; returns 1 where a panel's query takes longer than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboards")
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--hours", type=int, default=6)
    parser.add_argument("--keep", type=Path, help="folder of blocks to make once, and to use again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        blocks = options.keep or Path(scratch) / "blocks"
        end = fill(blocks, options.services, options.hours * 3600)
        with prometheus(blocks) as (url, pid):
            found = panels(url, pid, end, options.hours * 3600)
            say(
                f"{len(found)} queries of panels, over {options.hours} h, the slowest of them: seconds, of them Prometheus' CPU"
            )
            for seconds, cpu, board, title, query in sorted(found, reverse=True)[:SHOWN]:
                say(
                    f"  {seconds:7.3f} {cpu:7.2f}  {board}: {title}\n                   {' '.join(query.split())[:200]}"
                )
            cost(url, end, options.services)
    return 0 if max(found)[0] <= LIMIT_SECONDS else 1


def made(number: int) -> Params:
    """Return what the dashboards and rules of a service are made from: an engine with GPUs, objectives and a budget."""
    namespace, name = series.place(number)
    latencies = (
        ("first-token", "TimeToFirstToken", "500ms"),
        ("per-token", "TimePerOutputToken", "50ms"),
        ("answer", "RequestDuration", "10s"),
    )
    spec: dict[str, Any] = {
        "backend": {"type": "VLLM"},
        "workload": {"selector": {"matchLabels": {"app": name}}, "interception": {"port": {"name": "http"}}},
        "gpu": {"exporter": "Auto"},
        "objectives": [
            {"name": title, "latency": {"indicator": what, "threshold": limit}, "targetPercent": "99", "window": "28d"}
            for title, what, limit in latencies
        ]
        + [{"name": "errors", "errors": {}, "targetPercent": "99", "window": "28d"}],
        "budgets": [
            {
                "name": "daily",
                "limit": {"amount": "100.00"},
                "window": {"calendar": "Day"},
                "onExceeded": {"action": "Alert"},
            }
        ],
    }
    item = parse(
        LLMService, {"metadata": {"name": name, "namespace": namespace, "uid": "u", "generation": 1}, "spec": spec}
    )
    return Params(item, Settings(), Capabilities(rules=True), objectives.of_service(item), budgets.of_service(item))


def rules_of(number: int) -> list[dict[str, Any]]:
    """Return all rules of a service."""
    found = rules(made(number))
    return [rule for group in found["spec"]["groups"] for rule in group["rules"]] if found else []


def fill(blocks: Path, services: int, seconds: int) -> int:
    """Make the blocks, a slice of time at a time; returns where their data ends, Unix seconds."""
    said = blocks / "end"
    if said.exists():
        return int(said.read_text())
    blocks.mkdir(parents=True, exist_ok=True)
    end = int(time.time()) // SLICE * SLICE
    records = [rule for rule in rules_of(0) if "record" in rule]
    for start in range(end - seconds, end, SLICE):
        began = time.monotonic()
        text = blocks / "slice.txt"
        count = 0
        with text.open("w", encoding="utf-8") as file:
            for number in range(services):
                for one in series.of_service(number, records):
                    one.write(file, start, min(start + SLICE, end), end - seconds - 3600)
                    count += 1
            file.write("# EOF\n")
        subprocess.run(
            [packages.promtool_path(), "tsdb", "create-blocks-from", "openmetrics", "--quiet", text, blocks], check=True
        )
        size = text.stat().st_size >> 20
        text.unlink()
        say(f"{count} series, {size} MiB of text in blocks after {time.monotonic() - began:.0f} s")
    said.write_text(str(end))
    return end


@contextmanager
def prometheus(blocks: Path) -> Iterator[tuple[str, int]]:
    """Yield the address and process of a Prometheus over the blocks."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = blocks / "prometheus.yml"
    settings.write_text("{}\n", encoding="utf-8")
    process = subprocess.Popen(
        [
            packages.tool("prometheus"), f"--config.file={settings}", f"--storage.tsdb.path={blocks}", f"--web.listen-address={address}",
            "--storage.tsdb.retention.time=3650d", "--log.level=error",
        ],
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.2)
        yield f"http://{address}/api/v1/", process.pid
    finally:
        process.terminate()
        process.wait()


def panels(url: str, pid: int, end: int, span: int) -> list[tuple[float, float, str, str, str]]:
    """Ask each panel's queries; returns seconds and seconds of CPU (of the best of a few), dashboard, title and query of each."""
    found = []
    for board, built in (("overview", overview.build()), ("service", service.build(made(0)))):
        for panel in json.loads(to_json(built))["panels"]:
            step = max(series.SCRAPE_SECONDS, span // int(panel.get("maxDataPoints") or POINTS))
            # As Grafana makes it: https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
            rate = max(step + series.SCRAPE_SECONDS, 4 * series.SCRAPE_SECONDS)
            for target in panel.get("targets", []):
                query = target["expr"].replace("$__rate_interval", f"{rate}s").replace("$namespace", ".*")
                times = []
                for _ in range(REPEATS):
                    began, used = time.monotonic(), cpu_seconds(pid)
                    if target.get("instant"):
                        answer = ask(url, "query", query=query, time=end - 1)
                    else:
                        answer = ask(url, "query_range", query=query, start=end - span, end=end - 1, step=step)
                    times.append((time.monotonic() - began, cpu_seconds(pid) - used))
                if not answer:
                    say(f"  no data: {board}: {panel['title']}: {query}")
                found.append((*min(times), board, panel["title"], query))
    return found


def cpu_seconds(pid: int) -> float:
    """Return what CPU a process has used: what a query takes where others do not wait for the same cores."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cost(url: str, end: int, services: int) -> None:
    """Say what evaluating the rules takes, less what asking takes: of the large service, and of one like all others."""
    asking = min(timed(url, "vector(1)", end) for _ in range(100))
    for number in (0, services - 1):
        total, slowest = 0.0, (0.0, "")
        asked = rules_of(number)
        for rule in asked:
            seconds = min(timed(url, rule["expr"], end) for _ in range(REPEATS)) - asking
            total += seconds
            slowest = max(slowest, (seconds, rule.get("record", rule.get("alert", ""))))
        what = "the large service" if number == 0 else "a service of one pod"
        say(
            f"{len(asked)} rules of {what}: {total * 1000:.0f} ms each time, the slowest {slowest[0] * 1000:.0f} ms ({slowest[1]})"
        )


def timed(url: str, query: str, end: int) -> float:
    """Return how many seconds an instant query takes."""
    began = time.monotonic()
    ask(url, "query", query=query, time=end - 1)
    return time.monotonic() - began


def ask(url: str, path: str, **parameters: Any) -> list[Any]:
    """Return a query's result."""
    body = urllib.parse.urlencode(parameters).encode()
    try:
        with urllib.request.urlopen(url + path, body, timeout=120) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        message = f"{parameters}: {error.read().decode()}"
        raise RuntimeError(message) from error
    return found


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
