"""What the operator asks and who reports usage, as one process: `python -m benchmarks.operator.surroundings SERVICES NAMESPACES SECONDS REPORTERS`.

A stand-in of Prometheus: no Prometheus runs. It answers `POST /api/v1/query` with the figures of every service, in Prometheus' own JSON, for
exactly the queries that `llmwarden.control.observe.prometheus` asks (any other is answered 400, and counted), and `/api/v1/status/runtimeinfo`.
The ledger is real and not in here: this process only reports to it, as proxies do, for one pod of each namespace (REPORTERS: JSON, with tokens).

The first line printed is its address. `POST /control` takes JSON: `share` of the services whose figures move every SECONDS, in both places (0:
all stand still, which is how it begins); `ledger` {port, ca}: where to report to; `report`: report one call of every service now. The answer
has `unknown` queries, `failed` reports, and `asked` queries so far. Values move by more than what a status rounds away, and no state changes.
"""

import http.server
import json
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import httpx
import msgspec

from benchmarks.operator import services
from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.control.observe.prometheus import BOUNDS, OBJECTIVES, QUESTIONS
from llmwarden.domain import upstream

Place = tuple[str, str]
_LEDGER: Final = f"{names.LEDGER}.{names.DEFAULT_NAMESPACE}.svc"
_PATIENCE: Final = 120.0
_AGAIN_SECONDS: Final = 0.5
_STEPS: Final = 10  # values that a figure goes round in
_BOUNDS: Final = ("0.1", "0.3", "0.5", "0.8", "1.0", "1.5", "2.0", "2.5", "5.0", "10.0")
_OBJECTIVES: Final = {
    services.PROVIDER: ("first-token", "latency", "errors"),
    services.ENGINE: ("first-token", "per-token"),
}
# By the name of a question: a figure of a service that works well.
_BASE: Final = {
    "scraped": 1.0,
    "ttft.p50": 0.20,
    "ttft.p95": 0.31,
    "ttft.p99": 0.42,
    "duration.p50": 1.1,
    "duration.p95": 2.3,
    "duration.p99": 3.2,
    "tpot.p50": 0.011,
    "tpot.p95": 0.021,
    "tpot.p99": 0.031,
    "requests_per_second": 3.3,
    "error_ratio": 0.002,
    "output_tokens_per_second": 210.0,
    "engine.running": 4.0,
    "engine.waiting": 1.0,
    "engine.cache_used": 0.4,
    "engine.prefix_hits": 0.5,
    "coverage": 0.998,
}
_STILL: Final = frozenset({"scraped", "coverage"})


class Figures:
    """Every service's figures. A service's epoch is how often its figures have moved."""

    def __init__(self, count: int, namespaces: int) -> None:
        self.places = [services.place(number, namespaces) for number in range(count)]
        self.epochs = [0] * count
        self._lock = threading.Lock()
        self._answers: dict[str, bytes] = {}
        self._names = {question.query: question.name for question in QUESTIONS}
        self._next = 0
        self.asked = 0
        self.unknown: set[str] = set()

    def move(self, share: float) -> list[int]:
        """Move the figures of a share of all services, in turn; returns their numbers."""
        count = len(self.places)
        moved = [(self._next + step) % count for step in range(round(share * count))]
        with self._lock:
            self._next = (self._next + len(moved)) % max(1, count)
            for number in moved:
                self.epochs[number] += 1
            self._answers.clear()
        return moved

    def answer(self, query: str) -> bytes | None:
        """The body of an answer; None for a query that is not the operator's."""
        with self._lock:
            self.asked += 1
            found = self._answers.get(query)
            if found is None:
                result = self._result(query)
                if result is None:
                    self.unknown.add(query)
                    return None
                data = {"resultType": "vector", "result": result}
                found = self._answers[query] = msgspec.json.encode({"status": "success", "data": data})
            return found

    def _result(self, query: str) -> list[dict[str, Any]] | None:
        at = time.time()
        if query == BOUNDS.query:
            engines = [place for number, place in enumerate(self.places) if services.shape(number) == services.ENGINE]
            return [_sample(place, at, "1", le=bound) for place in engines for bound in _BOUNDS]
        if query == OBJECTIVES.query:
            return [
                _sample(place, at, f"{0.9915 + self._step(number) * 0.0008:.4f}", objective=objective)
                for number, place in enumerate(self.places)
                for objective in _OBJECTIVES[services.shape(number)]
            ]
        name = self._names.get(query)
        if name is None:
            return None
        if name not in _BASE:
            return []  # what only exists where something is wrong
        base = _BASE[name]
        return [
            _sample(place, at, repr(base if name in _STILL else base * (1 + 0.12 * self._step(number))))
            for number, place in enumerate(self.places)
            if not name.startswith(("engine.", "coverage")) or services.shape(number) == services.ENGINE
        ]

    def _step(self, number: int) -> int:
        return (self.epochs[number] + number) % _STEPS


def _sample(place: Place, at: float, value: str, **labels: str) -> dict[str, Any]:
    return {"metric": {"namespace": place[0], names.LABEL_M_SERVICE: place[1], **labels}, "value": [at, value]}


class Reporter:
    """Reports usage to a real ledger: totals of one journal per namespace, as a proxy's."""

    def __init__(self, figures: Figures, pods: Iterable[dict[str, str]]) -> None:
        self._figures = figures
        self._pods = {pod["namespace"]: pod for pod in pods}
        self._http: httpx.Client | None = None
        self._url = ""
        self._sequence = 0
        self._bucket = 0
        self._calls: dict[int, int] = {}
        self.failed: list[str] = []

    def connect(self, port: int, ca: str) -> None:
        """Report to the ledger on this port of loopback from now on."""
        # The certificate is the Service's.
        self._http = httpx.Client(verify=ssl.create_default_context(cadata=ca), timeout=60, trust_env=False)
        self._url = f"https://127.0.0.1:{port}/v1/report"

    def report(self, numbers: Iterable[int]) -> None:
        """Report one call more of each of these services."""
        if self._http is None:
            return
        bucket = int(time.time()) // names.BUCKET_SECONDS * names.BUCKET_SECONDS
        if bucket != self._bucket:
            self._bucket = bucket
            self._calls.clear()
        rows: dict[str, list[wire.Row]] = {}
        for number in numbers:
            calls = self._calls[number] = self._calls.get(number, 0) + 1
            namespace, name = self._figures.places[number]
            rows.setdefault(namespace, []).append(self._row(number, name, calls))
        self._sequence += 1
        for namespace, found in rows.items():
            self._send(self._pods[namespace], found)

    def _row(self, number: int, name: str, calls: int) -> wire.Row:
        provider = services.shape(number) == services.PROVIDER
        return wire.Row(
            service=name,
            provider=upstream.backend_provider("OpenAI" if provider else "VLLM"),
            model="gpt-4o-mini" if provider else "meta-llama/Llama-3.1-8B-Instruct",
            price_id=None,
            bucket=self._bucket,
            requests=calls,
            errors=0,
            tokens=wire.Tokens(input=1000 * calls, cached_input=100 * calls, output=70 * calls),
        )

    def _send(self, pod: dict[str, str], rows: list[wire.Row]) -> None:
        reference = wire.PodRef(pod["namespace"], pod["name"], pod["uid"])
        report = wire.Report(
            contract=names.CONTRACT, journal=pod["uid"], sequence=self._sequence, pod=reference, rows=tuple(rows)
        )
        # A service that was made just now is not known to the ledger yet: proxies repeat their totals, too.
        end = time.monotonic() + _PATIENCE
        while fault := self._fault(pod, report):
            if time.monotonic() > end:
                self.failed.append(fault)
                return
            time.sleep(_AGAIN_SECONDS)

    def _fault(self, pod: dict[str, str], report: wire.Report) -> str:
        """Send a report; returns what was not taken, "" where all was."""
        try:
            answer = self._http.post(  # type: ignore[union-attr]
                self._url,
                content=msgspec.json.encode(report),
                headers={"Authorization": f"Bearer {pod['token']}"},
                extensions={"sni_hostname": _LEDGER},
            )
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        accepted = answer.json().get("accepted") if answer.is_success else None
        if accepted == len(report.rows):
            return ""
        return f"{answer.status_code}: {accepted} of {len(report.rows)} rows taken: {answer.text[:200]}"


class Mover(threading.Thread):
    """Moves figures, and reports usage of the same services, every so many seconds."""

    def __init__(self, figures: Figures, reporter: Reporter, seconds: float) -> None:
        super().__init__(daemon=True)
        self._figures, self._reporter, self._seconds = figures, reporter, seconds
        self._lock = threading.Lock()
        self.share = 0.0

    def run(self) -> None:
        """See threading.Thread."""
        while True:
            time.sleep(self._seconds)
            if self.share:
                with self._lock:
                    self._reporter.report(self._figures.move(self.share))

    def report_all(self) -> None:
        """Report one call of every service."""
        with self._lock:
            self._reporter.report(range(len(self._figures.places)))


def _handler(figures: Figures, reporter: Reporter, mover: Mover) -> type[http.server.BaseHTTPRequestHandler]:
    def control(order: dict[str, Any]) -> bytes:
        if "ledger" in order:
            reporter.connect(order["ledger"]["port"], order["ledger"]["ca"])
        if order.get("report"):
            mover.report_all()
        mover.share = float(order.get("share", mover.share))
        found = {
            "asked": figures.asked,
            "unknown": sorted(figures.unknown),
            "failed": reporter.failed[:5],
            "failures": len(reporter.failed),
        }
        return json.dumps(found).encode()

    return _answering(figures, control)


def _answering(
    figures: Figures, control: Callable[[dict[str, Any]], bytes]
) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes

        def do_GET(self) -> None:
            if self.path.endswith("/runtimeinfo"):
                self._say(200, b'{"status":"success","data":{"storageRetention":"15d"}}')
            else:
                self._say(404, b"{}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/control":
                self._say(200, control(json.loads(body)))
                return
            answer = figures.answer(parse_qs(body.decode())["query"][0])
            refusal = b'{"status":"error","errorType":"bad_data","error":"the stand-in does not know this query"}'
            self._say(400 if answer is None else 200, answer or refusal)

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: a line a question would be work."""

    return Handler


def main(count: int, namespaces: int, seconds: float, reporters: Path) -> None:
    """Serve for ever."""
    figures = Figures(count, namespaces)
    reporter = Reporter(figures, json.loads(reporters.read_text(encoding="utf-8")))
    mover = Mover(figures, reporter, seconds)
    mover.start()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(figures, reporter, mover))
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
