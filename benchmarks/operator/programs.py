"""The processes beside the control plane: the operator, the ledger, and what stands in for Prometheus."""

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.operator import processes
from llmwarden import names
from llmwarden.serving import pki
from tests.ports import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
_LOOK_SECONDS: Final = 0.05
_SIGNALLED_SECONDS: Final = 120.0
_PATIENCE: Final = 600.0
RECONCILED: Final = 'llmwarden_operator_reconcile_total{kind="LLMService",result="success"}'
ASKED: Final = 'llmwarden_ledger_requests_total{code="200",path="/v1/usage"}'
DEPTH: Final = "llmwarden_operator_queue_depth"


class Program:
    """A process with /readyz and /metrics on loopback, its output in a file."""

    def __init__(self, words: list[str], environment: dict[str, str], log: Path, port: int, nice: int = 0) -> None:
        self.port, self.log = port, log
        self.started = time.monotonic()
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                ["nice", "-n", str(nice), sys.executable, "-m", *words],
                env={**os.environ, **environment},
                stdout=file,
                stderr=file,
                cwd=ROOT,
            )
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)

    @property
    def pid(self) -> int:
        """Its process id: nice becomes what it starts."""
        return self.process.pid

    def ready(self, seconds: float = _PATIENCE) -> float:
        """Wait until it says that it is ready; returns seconds since its start."""
        while not self._answers("/readyz"):
            if self.process.poll() is not None or time.monotonic() - self.started > seconds:
                end = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
                message = f"{self.log}: not ready within {seconds:.0f} s, or ended:\n{end}"
                raise RuntimeError(message)
            time.sleep(_LOOK_SECONDS)
        return time.monotonic() - self.started

    def _answers(self, path: str) -> bool:
        try:
            return self._http.get(path).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def metric(self, start: str) -> float:
        """The sum of all series whose line starts so."""
        text = self._http.get("/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start))

    def stop(self, seconds: float = 60.0) -> None:
        """End it, as Kubernetes does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Operator(Program):
    """The operator, with the chart's rights and production's settings but for what the run says."""

    def __init__(self, scratch: Path, kubeconfig: Path, token: Path, prometheus: str, **settings: str) -> None:
        self.heap_file, self._profile_file = scratch / "heap.xml", scratch / "profile.txt"
        port = free_port()
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "LLMWARDEN_METRICS_PORT": str(port),
            "LLMWARDEN_TOKEN_FILE": str(token),
            "LLMWARDEN_PROMETHEUS_URL": prometheus,
            "BENCH_HEAP": str(self.heap_file),
            "BENCH_PROFILE_FILE": str(scratch / "profile.txt"),
            "PYTHONPATH": str(ROOT / "operator"),
            **settings,
        }
        super().__init__(["benchmarks.operator.launch"], environment, scratch / "operator.log", port)

    def memory(self) -> dict[str, float]:
        """What it holds, in MiB: see processes.Memory; `heap` is what glibc has from the kernel, `heap_free` what of that is unused."""
        held = processes.memory(self.pid)
        self._written(signal.SIGUSR1, self.heap_file)
        # Written by glibc on this machine just now.
        root = ET.parse(self.heap_file).getroot()  # noqa: S314

        def size(path: str) -> float:
            return sum(float(item.get("size", 0)) for item in root.findall(path)) / 2**20

        mapped = size("./total[@type='mmap']")
        return {
            "resident": held.resident,
            "proportional": held.proportional,
            "peak": held.peak,
            "heap": round(size("./system[@type='current']") + mapped, 1),
            "heap_free": round(size("./total[@type='fast']") + size("./total[@type='rest']"), 1),
        }

    def profile(self, to: Path) -> None:
        """Write where time or memory went since the last time (launch.py)."""
        self._written(signal.SIGUSR2, self._profile_file)
        to.write_bytes(self._profile_file.read_bytes())

    def _written(self, number: int, file: Path) -> None:
        """Wait for a file that the process writes on a signal."""
        file.unlink(missing_ok=True)
        self.process.send_signal(number)
        end = time.monotonic() + _SIGNALLED_SECONDS
        while not file.exists():
            if time.monotonic() > end:
                message = f"the operator does not write {file.name}"
                raise RuntimeError(message)
            time.sleep(_LOOK_SECONDS)

    def passed(self, count: int, seconds: float) -> float:
        """Wait until so many services were reconciled and none waits; returns seconds since the start."""
        end = time.monotonic() + seconds
        while self.metric(RECONCILED) < count or self.metric(DEPTH) > 0:
            if time.monotonic() > end or self.process.poll() is not None:
                message = f"not all services were looked at within {seconds:.0f} s ({self.log})"
                raise RuntimeError(message)
            time.sleep(_LOOK_SECONDS * 4)
        return time.monotonic() - self.started


class Ledger(Program):
    """The real ledger on SQLite, at low priority: in production it is not on the operator's core."""

    def __init__(self, scratch: Path, kubeconfig: Path, port: int) -> None:
        metrics = free_port()
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "LLMWARDEN_DATABASE_PATH": str(scratch / "ledger.sqlite3"),
            "PYTHONPATH": str(ROOT / "operator"),
        }
        words = ["llmwarden", "ledger", "--port", str(port), "--metrics-port", str(metrics)]
        super().__init__(words, environment, scratch / "ledger.log", metrics, nice=10)


class Surroundings:
    """The stand-in of Prometheus, and who reports usage: `benchmarks.operator.surroundings`."""

    def __init__(self, services: int, namespaces: int, seconds: float, reporters: Path) -> None:
        words = [str(services), str(namespaces), str(seconds), str(reporters)]
        self._process = subprocess.Popen(
            ["nice", "-n", "10", sys.executable, "-m", "benchmarks.operator.surroundings", *words],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        line = self._process.stdout.readline().strip() if self._process.stdout is not None else ""
        if not line:
            message = "the stand-in of Prometheus ended"
            raise RuntimeError(message)
        self.url = line

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def order(self, **order: Any) -> dict[str, Any]:
        """Give an order; returns what it says of itself. Raises RuntimeError where something did not work."""
        answer = httpx.post(f"{self.url}/control", content=json.dumps(order), timeout=300, trust_env=False)
        found: dict[str, Any] = answer.json()
        if found["unknown"] or found["failures"]:
            message = f"the surroundings could not answer or report: {json.dumps(found)[:2000]}"
            raise RuntimeError(message)
        return found

    def connect(self, port: int, ca: str) -> None:
        """Report to this ledger."""
        self.order(ledger={"port": port, "ca": ca})

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def ca_of(secret: dict[str, Any]) -> str:
    """The PEM bundle of the product's own authority."""
    found = pki.ca_bundle(secret)
    if not found:
        message = f"Secret {names.SECRET_CA} holds no certificate"
        raise RuntimeError(message)
    return found
