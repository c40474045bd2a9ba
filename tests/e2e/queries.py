"""What our dashboards and rules ask of Prometheus, and a quick way to ask it: through one `kubectl proxy`, not a kubectl for each question."""

import json
import math
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.lifecycle import kubectl
from demo import steps
from demo.kube import Kube
from llmwarden import names
from tests.grafana import asked

SPAN_SECONDS = 120  # of a panel's range query
STEP_SECONDS = 15
# Series with matchers; and ours, which rules for all services ask for without any.
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?\{([^{}]*)\}|\b((?:(?:llmservice|llmwarden):|llmwarden_)[\w:]+)(?![\w:{])")
_OFFSET = re.compile(r"\s+offset\s+\w+")
_OF_ONE = re.compile(r'\b(namespace|llmservice|objective|budget|calendar|over|severity)="[^"]*"')


@dataclass(frozen=True)
class Prometheus:
    """The cluster's Prometheus, as its HTTP API."""

    http: httpx.Client

    def ask(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """Return the result of a query; fails on what Prometheus refuses."""
        answer = self.http.post(path, data={key: str(value) for key, value in parameters.items()})
        body = answer.json()
        assert body["status"] == "success", (parameters, body)
        found: list[dict[str, Any]] = body["data"] if isinstance(body["data"], list) else body["data"]["result"]
        return found

    def has(self, expr: str, *, nan: bool = False) -> bool:
        """Whether a query returned a number within the last minutes; NaN is one only if `nan`."""
        end = time.time()
        found = self.ask("query_range", query=expr, start=end - SPAN_SECONDS, end=end, step=STEP_SECONDS)
        return any(nan or not math.isnan(float(value)) for series in found for _, value in series["values"])

    def ever(self, selector: str) -> bool:
        """Whether there has been such a series since this Prometheus began."""
        return bool(self.ask("series", **{"match[]": selector, "start": time.time() - 6 * 3600}))


@contextmanager
def prometheus(kube: Kube) -> Iterator[Prometheus]:
    """Yield the cluster's Prometheus while it can be asked."""
    process = subprocess.Popen(
        [kubectl(), f"--kubeconfig={kube.kubeconfig}", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().rpartition(":")[2].strip()
        path = f"/api/v1/namespaces/{steps.MONITORING}/services/prometheus-operated:web/proxy/api/v1/"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}{path}", timeout=30) as http:
            yield Prometheus(http)
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def panels(kube: Kube) -> dict[str, list[str]]:
    """Return the queries of every panel of every dashboard: `namespace/name: title` -> PromQL."""
    found: dict[str, list[str]] = {}
    for item in kube.items("configmap", selector="app.kubernetes.io/component=dashboard"):
        (text,) = item["data"].values()
        name = f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        for query in asked(json.loads(text), "1m", namespace=".*"):  # the shortest interval is four scrapes
            found.setdefault(f"{name}: {query.title}", []).append(query.expr)
    return found


def rules(kube: Kube) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every rule: of a service's own with its key, of those for all services with an empty one."""
    for item in kube.items("prometheusrule", selector="app.kubernetes.io/managed-by=llmwarden"):
        service = item["metadata"]["labels"].get(names.LABEL_SERVICE)
        key = f"{item['metadata']['namespace']}/{service}" if service else ""
        for group in item["spec"]["groups"]:
            for rule in group["rules"]:
                yield key, rule


def selectors(expr: str) -> list[str]:
    """Return the series that an expression names, each without its range and offset."""
    return list(dict.fromkeys(f"{name or bare}{{{matchers}}}" for name, matchers, bare in _SELECTOR.findall(expr)))


def of_anyone(selector: str) -> str:
    """Return a selector with the labels that say whose it is only asked to be there."""
    return _OF_ONE.sub(r'\1!=""', selector)


def without_offset(expr: str) -> str:
    """Return an expression that asks about now what it asked about an earlier day: a cluster of this morning has no yesterday."""
    return _OFFSET.sub("", expr)
