"""`make bench-dashboards`, or `python -m benchmarks.dashboards [--services 1000] [--hours 6]`.

Asks a real Prometheus every query of both dashboards as Grafana does, over all hours at the step that a panel's width gives, and says which take
longest. Then lets a Prometheus evaluate the rules of all services for some minutes, and says what that takes; and, because the series above are hours
and objectives look back over weeks, what their rules take over four weeks. Not in it: Grafana, and a Prometheus that scrapes at the same time.
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
from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.domain import budgets, objectives
from llmwarden.manifests.alerts import rules, shared_rules
from llmwarden.manifests.dashboards import overview, service
from llmwarden.manifests.params import ClusterParams, Params
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities
from tests.grafana import asked

SLICE: Final = 2 * 3600  # a block of Prometheus
BEHIND: Final = 5 * 60  # most rules look back so far
AHEAD: Final = 30 * 60  # until then the benchmark is over
POINTS: Final = 600  # that a panel a third of a screen wide asks for
LIMIT_SECONDS: Final = 1.0
WARM_SECONDS: Final = 250
RULE_SECONDS: Final = 30  # between two samples of an objective's rates
WEEKS_SECONDS: Final = 28 * 86400
WEEKS_REPEATS: Final = 20
SHOWN: Final = 12
REPEATS: Final = 3


def main() -> int:
    """Run; returns 1 where a panel's query takes longer than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboards")
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--hours", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=6, help="how long rules are evaluated")
    parser.add_argument(
        "--keep", type=Path, help="folder of blocks to make once, and to use again within twenty minutes"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        blocks = options.keep or Path(scratch) / "blocks"
        end = fill(blocks, options.services, options.hours * 3600)
        with prometheus(blocks) as (url, pid):
            now = min(int(time.time()), end)
            found = panels(url, pid, now, options.hours * 3600)
            say(
                f"{len(found)} queries of panels, over {options.hours} h, the slowest of them: seconds, of them Prometheus' CPU"
            )
            for seconds, cpu, board, title, query in sorted(found, reverse=True)[:SHOWN]:
                say(
                    f"  {seconds:7.3f} {cpu:7.2f}  {board}: {title}\n                   {' '.join(query.split())[:200]}"
                )
        evaluate(blocks, options.services, options.minutes * 60)
        over_weeks(Path(scratch) / "weeks", options.services)
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
    """Return all rules that record something of a service: its own, and those for all."""
    shared = shared_rules.rules(ClusterParams((), Settings(), Capabilities(rules=True)))
    found = [item for item in (rules.rules(made(number)), shared) if item]
    return [rule for item in found for group in item["spec"]["groups"] for rule in group["rules"]]


def fill(blocks: Path, services: int, seconds: int) -> int:
    """Make the blocks, a slice of time at a time; returns where their data ends, Unix seconds."""
    said = blocks / "end"
    if said.exists():
        return int(said.read_text())
    blocks.mkdir(parents=True, exist_ok=True)
    # Into the future: rules are evaluated at the present.
    now = int(time.time())
    end = (now + AHEAD) // SLICE * SLICE + SLICE
    often = range(now - BEHIND, now + AHEAD, series.OFTEN_SECONDS)
    records = [rule for rule in rules_of(0) if "record" in rule]
    for start in range(end - seconds // SLICE * SLICE - SLICE, end, SLICE):
        began = time.monotonic()
        text = blocks / "slice.txt"
        count = 0
        with text.open("w", encoding="utf-8") as file:
            for number in range(services):
                for one in series.of_service(number, records):
                    one.write(file, start, start + SLICE, now - seconds - SLICE - 3600, often)
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
def prometheus(blocks: Path, rule_files: str = "") -> Iterator[tuple[str, int]]:
    """Yield the address and process of a Prometheus over the blocks, which evaluates rules every 30 s."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = blocks / "prometheus.yml"
    configuration = {
        "global": {"evaluation_interval": "30s"},
        "rule_files": [rule_files] if rule_files else [],
    }
    settings.write_text(json.dumps(configuration), encoding="utf-8")
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
        for query in asked(built, "RATE", namespace=".*"):
            step = max(series.SCRAPE_SECONDS, span // (query.points or POINTS))
            # As Grafana makes it: https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
            rate = max(step + series.SCRAPE_SECONDS, 4 * series.SCRAPE_SECONDS)
            expr = query.expr.replace("[RATE]", f"[{rate}s]")
            times = []
            for _ in range(REPEATS):
                began, used = time.monotonic(), cpu_seconds(pid)
                if query.instant:
                    answer = ask(url, "query", query=expr, time=end - 1)
                else:
                    answer = ask(url, "query_range", query=expr, start=end - span, end=end - 1, step=step)
                times.append((time.monotonic() - began, cpu_seconds(pid) - used))
            if not answer:
                say(f"  no data: {board}: {query.title}: {expr}")
            found.append((*min(times), board, query.title, expr))
    return found


def cpu_seconds(pid: int) -> float:
    """Return what CPU a process has used: what a query takes where others do not wait for the same cores."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def evaluate(blocks: Path, services: int, seconds: float) -> None:
    """Let a Prometheus evaluate the rules of all services, and say what that takes."""
    folder = blocks / "rules"
    folder.mkdir(exist_ok=True)
    shared = shared_rules.rules(ClusterParams((), Settings(), Capabilities(rules=True)))
    items = {"all": shared} | {f"{number:05d}": rules.rules(made(number)) for number in range(services)}
    count = 0
    for name, item in items.items():
        if item is not None:
            (folder / f"{name}.yaml").write_text(json.dumps({"groups": item["spec"]["groups"]}), encoding="utf-8")
            count += sum(len(group["rules"]) for group in item["spec"]["groups"])
    with prometheus(blocks, f"{folder.resolve()}/*.yaml") as (url, pid):
        time.sleep(WARM_SECONDS)  # every group was evaluated once
        began, used = time.monotonic(), cpu_seconds(pid)
        time.sleep(seconds)
        cores = (cpu_seconds(pid) - used) / (time.monotonic() - began)
        groups = {item["name"]: item for item in ask(url, "rules")}
    load = {name: item["evaluationTime"] / item["interval"] for name, item in groups.items()}
    ours = {name: share for name, share in load.items() if name.startswith(shared_rules.PREFIX)}
    # What they record is in the blocks already, which end later: it is not taken.
    bad = [
        rule
        for item in groups.values()
        for rule in item["rules"]
        if rule["health"] == "err" and "out of" not in rule.get("lastError", "")
    ]
    say(
        f"{count} rules of {services} services in {len(groups)} groups: {cores:.2f} cores of the process; by the groups' own durations "
        f"{sum(load.values()):.2f}, of them {sum(ours.values()):.2f} for all services and {sum(load.values()) - sum(ours.values()):.2f} beside each"
    )
    for name, share in sorted(ours.items(), key=lambda item: -item[1]):
        say(f"  {share:.3f}  {name}: {groups[name]['evaluationTime']:.2f} s each {groups[name]['interval']:.0f} s")
    for kind in ("spec", "objectives", "objectives-slow", "gpus"):
        mine = [item for name, item in groups.items() if name.rpartition("/")[2] == kind and name not in ours]
        share = sum(item["evaluationTime"] / item["interval"] for item in mine)
        say(
            f"  {share:.3f}  {kind} of each: {1000 * sum(item['evaluationTime'] for item in mine) / max(len(mine), 1):.1f} ms"
        )
    if bad:
        say(f"  {len(bad)} rules fail: {bad[0]['name']}: {bad[0].get('lastError')}")


def over_weeks(blocks: Path, services: int) -> None:
    """Say what the rules over weeks take: of one service, whose rates were recorded for all of them."""
    blocks.mkdir(parents=True)
    params = made(0)
    end = int(time.time()) // SLICE * SLICE
    namespace, name = series.place(0)
    text = blocks / "weeks.txt"
    with text.open("w", encoding="utf-8") as file:
        for record, value in ((names.RECORD_GOOD, 0.99), (names.RECORD_TOTAL, 1.0)):
            for objective in series.OBJECTIVES:
                labels = {"namespace": namespace, names.LABEL_M_SERVICE: name, "objective": objective}
                one = series.Series(record, labels, value, counter=False, every=RULE_SECONDS)
                one.write(file, end - WEEKS_SECONDS, end, 0)
        file.write("# EOF\n")
    subprocess.run(
        [packages.promtool_path(), "tsdb", "create-blocks-from", "openmetrics", "--quiet", text, blocks], check=True
    )
    text.unlink()
    built = rules.rules(params)
    groups = {item["name"].rpartition("/")[2]: item for item in built["spec"]["groups"]} if built else {}
    queries = [rule["expr"] for rule in groups["objectives-slow"]["rules"]]
    with prometheus(blocks) as (url, pid):
        for query in queries:
            ask(url, "query", query=query, time=end - 1)
        used = cpu_seconds(pid)
        for number in range(WEEKS_REPEATS):
            for query in queries:
                ask(url, "query", query=query, time=end - 1 - number)
        each = (cpu_seconds(pid) - used) / WEEKS_REPEATS
    say(
        f"with 28 days behind it: objectives-slow of a service with {len(series.OBJECTIVES)} objectives takes {1000 * each:.0f} ms of CPU, asking included, "
        f"each {rules.SELDOM_SECONDS} s: {each * services / rules.SELDOM_SECONDS:.2f} cores for {services}"
    )


def ask(url: str, path: str, **parameters: Any) -> list[Any]:
    """Return a query's result."""
    body = urllib.parse.urlencode(parameters).encode()
    try:
        # What has no parameters is read by GET.
        with urllib.request.urlopen(url + path, body or None, timeout=120) as answer:
            data = json.load(answer)["data"]
            found: list[Any] = data["groups"] if "groups" in data else data["result"]
    except urllib.error.HTTPError as error:
        message = f"{parameters}: {error.read().decode()}"
        raise RuntimeError(message) from error
    return found


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
