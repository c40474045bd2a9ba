"""The Prometheus Operator beside ours: the real program, on the same API server, with a Prometheus that selects every rule and monitor.

What it does with the same children: it reads every PrometheusRule, checks it, and writes all of them into ConfigMaps of its own (of which a
Prometheus would read them), and it writes the scrape configuration of all monitors into a Secret. No Prometheus runs.
"""

import base64
import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.operator import processes
from benchmarks.operator.plane import MONITORING, Plane
from benchmarks.operator.watches import RULES, Watch
from cluster import builds
from tests.ports import free_port

_CONFIG_MAPS: Final = f"/api/v1/namespaces/{MONITORING}/configmaps"
_PATIENCE: Final = 1800.0
_EDITS: Final = 5


class PrometheusOperator:
    """The program, from its start."""

    def __init__(self, plane: Plane, scratch: Path) -> None:
        self._plane = plane
        [program] = builds.build("prometheus-operator")
        config = _files(plane, scratch)
        words = [
            program,
            *config,
            f"--web.listen-address=127.0.0.1:{free_port()}",
            "--prometheus-config-reloader=reloader",
            "--log-level=warn",
        ]
        self._log = scratch / "prometheus-operator.log"
        with self._log.open("ab") as file:
            self._process = subprocess.Popen([str(word) for word in words], stdout=file, stderr=file)
        self._changed = threading.Condition()
        self._files: dict[str, dict[str, str]] = {}  # rule files by ConfigMap
        self._watch = Watch(plane.api, _CONFIG_MAPS, self._take)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def stop(self) -> None:
        """End it."""
        self._watch.stop()
        self._process.terminate()
        self._process.wait(30)

    def caught_up(self, since: float) -> dict[str, Any]:
        """Wait until every rule is in a rule file; returns seconds since a moment (monotonic), and what it took since its start."""
        rules = self._plane.names_of(RULES)
        self._wait(lambda: self._count() >= len(rules), f"{len(rules)} rule files of the Prometheus Operator")
        held = processes.memory(self.pid)
        return {
            "rules": len(rules),
            "seconds": round(time.monotonic() - since, 1),
            "cpu": round(processes.cpu(self.pid), 1),
            "resident": held.resident,
            "peak": held.peak,
        }

    def edits(self) -> dict[str, Any]:
        """Edit a rule a few times, and say how long that takes to be in a rule file; and what it holds at the end."""
        before = processes.cpu(self.pid)
        edits = sorted(round(self._edit(), 2) for _ in range(_EDITS))
        held = processes.memory(self.pid)
        return {
            "edit_seconds": edits,
            "cpu_of_edits": round(processes.cpu(self.pid) - before, 1),
            "cpu": round(processes.cpu(self.pid), 1),
            "resident": held.resident,
            "peak": held.peak,
        }

    def _edit(self) -> float:
        """Apply a rule that is nobody's (ours would be put back); returns seconds until it is in a rule file."""
        record = f"bench_{time.monotonic_ns()}"
        group = {"name": record, "rules": [{"record": record, "expr": "vector(1)"}]}
        item = {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "edited", "namespace": MONITORING},
            "spec": {"groups": [group]},
        }
        path = f"{RULES.rpartition('/')[0]}/namespaces/{MONITORING}/prometheusrules/edited"
        began = time.monotonic()
        self._plane.api.http.patch(
            path,
            params={"fieldManager": "bench", "force": "true"},
            content=json.dumps(item),
            headers={"Content-Type": "application/apply-patch+yaml"},
        ).raise_for_status()
        self._wait(lambda: self._holds(record), f"the edit of {MONITORING}/edited")
        return time.monotonic() - began

    def _count(self) -> int:
        return sum(len(files) for files in self._files.values())

    def _holds(self, text: str) -> bool:
        return any(text in content for files in self._files.values() for content in files.values())

    def _wait(self, holds: Any, what: str) -> None:
        end = time.monotonic() + _PATIENCE
        with self._changed:
            while not holds():
                if self._process.poll() is not None or time.monotonic() > end:
                    message = f"{what}: not within {_PATIENCE:.0f} s, or it ended: {self._log.read_text()[-2000:]}"
                    raise RuntimeError(message)
                self._changed.wait(5.0)

    def _take(self, kind: str, item: dict[str, Any]) -> None:
        name = item["metadata"]["name"]
        if "rulefiles" not in name:
            return
        with self._changed:
            if kind == "DELETED":
                self._files.pop(name, None)
            else:
                self._files[name] = item.get("data") or {}
            self._changed.notify_all()


def _files(plane: Plane, scratch: Path) -> list[str]:
    """Options with the administrator's identity, which the program takes as files."""
    config = json.loads(plane.api.kubeconfig.read_text())
    user, server = config["users"][0]["user"], config["clusters"][0]["cluster"]
    found = []
    for option, text in (
        ("ca-file", server["certificate-authority-data"]),
        ("cert-file", user["client-certificate-data"]),
        ("key-file", user["client-key-data"]),
    ):
        file = scratch / f"prometheus-operator.{option}"
        file.touch(mode=0o600)
        file.write_bytes(base64.b64decode(text))
        found.append(f"--{option}={file}")
    return [f"--apiserver={server['server']}", *found]
