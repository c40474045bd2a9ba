"""The proxies that are compared, each a process pinned to the one core."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.datapath import tools
from benchmarks.datapath.workloads import MODELS
from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.injection import sidecar
from llmwarden.settings import Settings

_ROOT: Final = Path(__file__).resolve().parents[2]
_START_SECONDS: Final = 90.0
_READY: Final = re.compile(r"\w+ on (\d+); admin on (\d+)")


@dataclass(frozen=True)
class Around:
    """Where the others are: the mock's origin (plain or TLS, with its CA's file), the ledger, the collector."""

    upstream: str
    authority: Path
    ledger: str
    ledger_ca: str
    token: Path
    collector: int


class Subject:
    """A running proxy: its address, its process, what starting it took (seconds)."""

    def __init__(self, name: str, core: int, log: Path) -> None:
        self.name = name
        self.address = ""
        self.started = 0.0
        self._core = core
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Start it, pinned."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(self._core), *map(str, command)],
                env={**os.environ, **(environment or {})},
                cwd=_ROOT,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """Its process: taskset has become it."""
        if self._process is None:
            message = f"{self.name} is not running"
            raise RuntimeError(message)
        return self._process.pid

    def until_listening(self, port: int) -> None:
        """Wait until its port takes connections."""
        self.address = f"127.0.0.1:{port}"
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.alive():
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        message = f"{self.name} did not start:\n{self.log()[-2000:]}"
        raise RuntimeError(message)

    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def pause(self) -> None:
        """Let it not run while others are measured."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        os.kill(self.pid, signal.SIGCONT)

    def memory(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def contract(around: Around, service: str, journal: Path, *, exporting: bool) -> dict[str, Any]:
    """What the webhook injects for a service, with this machine's addresses in place of the cluster's."""
    resource = LLMService.model_validate(
        {
            "apiVersion": names.API_VERSION,
            "kind": "LLMService",
            "metadata": {"name": service, "namespace": "bench"},
            "spec": {
                "backend": {"type": "OpenAI"},
                "workload": {"selector": {"matchLabels": {"app": "bench"}}},
                "objectives": [
                    {
                        "name": "fast",
                        "latency": {"indicator": "TimeToFirstToken", "threshold": "1s"},
                        "targetPercent": "99",
                        "window": "28d",
                    }
                ],
            },
        }
    )
    pod = {"metadata": {"labels": {"app": "bench"}}, "spec": {"containers": [{"name": "app", "image": "app"}]}}
    settings = Settings(otlp_endpoint=f"http://127.0.0.1:{around.collector}")
    injected = sidecar.inject(pod, [resource], settings, around.ledger_ca)
    environment = {item["name"]: item.get("value", "") for item in injected.pod["spec"]["initContainers"][0]["env"]}
    found: dict[str, Any] = json.loads(environment[names.PROXY_ENV].replace("$$", "$"))
    found |= {"adminPort": 0, "journalDir": str(journal)}
    found["ledger"] |= {"url": around.ledger, "tokenFile": str(around.token)}
    found["routes"][0] |= {"listen": {"host": "127.0.0.1", "port": 0}, "upstream": around.upstream}
    if not exporting:
        found.pop("otlpEndpoint", None)
    return found


class Ours(Subject):
    """The sidecar: with everything on, or for a service that was released (it passes through unmeasured, ungated, unreported).

    `source` is where its code is: a compiled tree, or a checkout's `operator` folder.
    """

    def __init__(
        self,
        name: str,
        core: int,
        directory: Path,
        around: Around,
        source: Path,
        *,
        measuring: bool = True,
    ) -> None:
        super().__init__(name, core, directory / f"{name}.log")
        journal = directory / f"{name}-journal"
        journal.mkdir(exist_ok=True)
        service = "bot" if measuring else "released"
        environment = {
            names.PROXY_ENV: json.dumps(contract(around, service, journal, exporting=measuring)),
            "LLMWARDEN_POD_NAMESPACE": "shop",
            "LLMWARDEN_POD_NAME": "bench-1",
            "LLMWARDEN_POD_UID": name,
            "PYTHONPATH": str(source),
            "PYTHONUNBUFFERED": "1",
            "SSL_CERT_FILE": str(around.authority),
        }
        begun = time.monotonic()
        self.spawn([sys.executable, "-m", "llmwarden", "proxy"], environment)
        while not (ready := _READY.search(self.log())):
            if not self.alive() or time.monotonic() > begun + _START_SECONDS:
                message = f"{name} did not start:\n{self.log()[-2000:]}"
                raise RuntimeError(message)
            time.sleep(0.005)
        self.admin = int(ready[2])
        self._until_ready()
        self.started = time.monotonic() - begun
        self.until_listening(int(ready[1]))

    def _until_ready(self) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=5):
            return

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def go(name: str, core: int, directory: Path, around: Around) -> Subject:
    """Go's net/http/httputil.ReverseProxy."""
    subject = Subject(name, core, directory / f"{name}.log")
    port = free_port()
    subject.spawn(
        [
            *(tools.go_program("reverse"), "-listen", f"127.0.0.1:{port}"),
            *("-upstream", around.upstream, "-ca", around.authority),
        ]
    )
    subject.until_listening(port)
    return subject


def envoy(name: str, core: int, directory: Path, around: Around) -> Subject:
    """Envoy with one worker, a listener, a route and a cluster; no access log."""
    subject = Subject(name, core, directory / f"{name}.log")
    port = free_port()
    configuration = directory / "envoy.json"
    configuration.write_text(json.dumps(_envoy(port, int(around.upstream.rpartition(":")[2]))), encoding="ascii")
    subject.spawn(
        [tools.envoy(), "-c", configuration, "--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id"]
    )
    subject.until_listening(port)
    return subject


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy(port: int, upstream: int) -> dict[str, Any]:
    extensions = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "mock", "timeout": "0s"}}
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{extensions}.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "bench",
        "address": _address(port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    endpoint = {"endpoint": {"address": _address(upstream)}}
    cluster = {
        "name": "mock",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "mock", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def litellm(name: str, core: int, directory: Path, around: Around) -> Subject:
    """LiteLLM's proxy with one worker and no database."""
    subject = Subject(name, core, directory / f"{name}.log")
    port = free_port()
    models = [
        {
            "model_name": model,
            "litellm_params": {"model": f"openai/{model}", "api_base": f"{around.upstream}/v1", "api_key": "sk-none"},
        }
        for model in MODELS
    ]
    configuration = directory / "litellm.json"
    configuration.write_text(
        json.dumps({"model_list": models, "general_settings": {"dangerously_permit_weak_or_unset_master_key": True}}),
        encoding="ascii",
    )
    subject.spawn(
        [
            *(tools.litellm(), "--config", configuration, "--host", "127.0.0.1", "--port", str(port)),
            *("--num_workers", "1", "--telemetry", "False"),
        ],
        {"LITELLM_LOG": "ERROR", "NO_DOCS": "True"},
    )
    subject.until_listening(port)
    return subject
