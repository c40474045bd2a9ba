"""A thin layer over kubectl for the demo and the end-to-end tests: apply, read, wait, and say what is wrong with pods."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ClusterError
from cluster.lifecycle import kubectl
from cluster.shell import run

POLL_SECONDS = 1.0
_LINES = 15
_RESTARTS = 4  # an early one or two are normal while what a process needs is still starting


class DemoError(ClusterError):
    """The demo cannot go on; the text says what was expected and what was seen instead."""


class CrashLoopError(DemoError):
    """A container crashes repeatedly: waiting longer would not help."""


@dataclass(frozen=True)
class Kube:
    """A cluster, by its kubeconfig."""

    kubeconfig: Path

    def run(self, *arguments: str, given: str | None = None, timeout: float = 120) -> str:
        """Run kubectl and return its standard output; raises ClusterError with what it said."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        return run([kubectl(), *arguments], given=given, environment=environment, timeout=timeout)

    def apply(self, *documents: Mapping[str, Any], timeout: float = 120) -> None:
        """Apply documents server-side, in their order, taking over fields from earlier runs."""
        text = yaml.safe_dump_all(documents, sort_keys=False)
        # A field manager of the demo's own: LLM Warden's is not to be confused with it.
        self.run(
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=demo",
            "-f",
            "-",
            given=text,
            timeout=timeout,
        )

    def get(self, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        """Return one object, `{}` when there is none."""
        text = self.run("get", kind, name, *_scope(namespace), "-o", "json", "--ignore-not-found")
        found: dict[str, Any] = json.loads(text) if text.strip() else {}
        return found

    def items(self, kind: str, namespace: str = "", selector: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind, of one namespace or of all."""
        where = _scope(namespace) if namespace else ["-A"]
        found: list[dict[str, Any]] = json.loads(
            self.run("get", kind, *where, "-o", "json", *(["-l", selector] if selector else []))
        )["items"]
        return found

    def read(self, namespace: str, service: str, port: str, path: str) -> Any:
        """GET a JSON path of a Service, through the API server's proxy."""
        return json.loads(
            self.run("get", "--raw", f"/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy{path}")
        )

    def read_pod(self, namespace: str, pod: str, port: int, path: str) -> Any:
        """GET a JSON path of a pod, through the API server's proxy."""
        return json.loads(self.run("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}"))

    def pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        """Return pods that are not on their way out."""
        found = self.items("pods", namespace, selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def wait(self, what: str, check: Callable[[], str], seconds: float, hint: Callable[[], str] = str) -> None:
        """Poll `check` until it answers "" (done); its text says what is missing.

        Raises DemoError after `seconds`, with the last text and the hint.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                missing = check()
            except CrashLoopError:
                raise
            except ClusterError as error:
                # The API server or the thing behind it is not there yet: that is what we wait for.
                missing = str(error)
            if not missing:
                return
            if time.monotonic() > deadline:
                more = hint()
                message = f"{what}: timed out after {seconds:.0f} s: {missing}" + (f"\n{more}" if more else "")
                raise DemoError(message)
            time.sleep(POLL_SECONDS)

    def wait_rolled_out(self, kind: str, name: str, namespace: str, seconds: float) -> None:
        """Wait until a Deployment or StatefulSet has all its pods ready at the present generation."""

        def check() -> str:
            found = self.get(kind, name, namespace)
            if not found:
                return f"there is no {kind} {namespace}/{name}"
            status, wanted = found.get("status", {}), found["spec"].get("replicas", 1)
            if status.get("observedGeneration", 0) < found["metadata"]["generation"]:
                return "its controller has not processed it yet"
            self._give_up_on_crash_loop(found, namespace)
            ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
            done = ready >= wanted and updated >= wanted and status.get("replicas", 0) == wanted
            return "" if done else f"{ready} of {wanted} pods are ready, {updated} updated"

        self.wait(f"{kind} {namespace}/{name}", check, seconds, lambda: self.trouble(namespace))

    def _give_up_on_crash_loop(self, owner: Mapping[str, Any], namespace: str) -> None:
        selector = ",".join(f"{key}={value}" for key, value in owner["spec"]["selector"]["matchLabels"].items())
        for pod in self.pods(namespace, selector):
            states = [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
            for state in states:
                crashing = state["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
                if crashing and state.get("restartCount", 0) >= _RESTARTS:
                    message = f"{state['name']} of {namespace}/{pod['metadata']['name']} crashes repeatedly\n{self.trouble(namespace)}"
                    raise CrashLoopError(message)

    def trouble(self, *namespaces: str) -> str:
        """Say what is wrong in namespaces: pods that are not ready with reasons and last log lines, and warning events."""
        lines: list[str] = []
        for namespace in namespaces:
            for pod in self.items("pods", namespace):
                lines += self._pod_trouble(namespace, pod)
            events = [event for event in self.items("events", namespace) if event.get("type") == "Warning"]
            for event in events[-_LINES:]:
                what = event["involvedObject"]
                lines.append(
                    f"  event {what['kind']} {what.get('name')}: {event.get('reason')}: {event.get('message')}"
                )
        return "\n".join(lines)

    def _pod_trouble(self, namespace: str, pod: Mapping[str, Any]) -> list[str]:
        name, status = pod["metadata"]["name"], pod.get("status", {})
        lines = []
        for state in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            waiting = state["state"].get("waiting") or state["state"].get("terminated") or {}
            if state.get("ready") or waiting.get("reason") in ("Completed", "PodInitializing"):
                continue
            reason = waiting.get("reason") or "not ready"
            lines.append(
                f"  pod {namespace}/{name} container {state['name']}: {reason} {waiting.get('message', '')}".rstrip()
            )
            lines += [
                f"    | {line}"
                for line in self.logs(namespace, name, state["name"], previous=state.get("restartCount", 0) > 0)
            ]
        if not status.get("containerStatuses") and status.get("phase") == "Pending":
            for condition in status.get("conditions", []):
                if condition["status"] == "False" and condition.get("message"):
                    lines.append(f"  pod {namespace}/{name}: {condition['message']}")
        return lines

    def logs(
        self, namespace: str, pod: str, container: str, *, previous: bool = False, lines: int = _LINES
    ) -> list[str]:
        """Return the last lines of a container's log; none where there is no log yet."""
        arguments = ["-n", namespace, "logs", pod, "-c", container, f"--tail={lines}"]
        try:
            return self.run(*arguments, *(["--previous"] if previous else [])).splitlines()
        except ClusterError:
            return []


def _scope(namespace: str) -> list[str]:
    return ["-n", namespace] if namespace else []


def documents(path: Path, replace: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Read a manifest file; whole string values, and ends of `--flag=value`, that are keys of `replace` are replaced."""
    return [_replaced(document, replace or {}) for document in yaml.safe_load_all(path.read_text()) if document]


def _replaced(value: Any, replace: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(item, replace) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, replace) for item in value]
    if isinstance(value, str):
        flag, equals, end = value.partition("=")
        if equals and flag.startswith("--") and end in replace:
            return f"{flag}={replace[end]}"
        return replace.get(value, value)
    return value


def condition(item: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return a condition of an object, `{}` when it has none of that type."""
    conditions: Sequence[dict[str, Any]] = item.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each.get("type") == kind), {})


def namespaces_of(items: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the Namespaces among documents."""
    return [item["metadata"]["name"] for item in items if item["kind"] == "Namespace"]
