"""Which GPU exporter the cluster gets, and why: decided by what the cluster says of itself, and by what came of a try.

`Auto` prefers NVIDIA's: first one that is there already, else one of ours where its image can run. What speaks against it is seen before
(a node of another architecture, a node that was told to have none) or after: none of its pods is ready and one of them was tried for
`FAILING`. That outcome is noted on the DaemonSet (`Unfit`), so that the choice stays: it is tried again with another image, or once
somebody takes the note away.
"""

import datetime as dt
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.settings import Settings
from llmwarden.snapshot import Verdict

Exporter = Literal["DCGM", "NVML"]
ARCHITECTURES: Final = ("amd64", "arm64")  # that NVIDIA builds dcgm-exporter's image for
FAILING: Final = dt.timedelta(minutes=10)
NODE_DEPLOY: Final = (
    "nvidia.com/gpu.deploy.dcgm-exporter"  # NVIDIA's GPU operator: "false" on nodes that are to have none
)
RUNTIME_CLASS: Final = (
    "nvidia"  # made by NVIDIA's GPU operator, and by k3s: the runtime that brings the driver into containers
)
DISABLED: Final = "This installation runs no GPU exporter, and looks for none (the chart's gpu.enabled)."
SHOWN: Final = 200  # characters of what a kubelet says of a container


@dataclass(frozen=True, slots=True)
class Node:
    """A node with NVIDIA GPUs. `refuses`: it is labelled to have no dcgm-exporter."""

    name: str
    architecture: str
    refuses: bool = False


@dataclass(frozen=True, slots=True)
class ExporterPod:
    """A pod of our DaemonSet that has a node. `since`: when it last became ready or not; `why` it is not, in the kubelet's words."""

    name: str
    node: str
    image: str
    ready: bool
    since: dt.datetime
    why: str = ""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Somebody else's dcgm-exporter: its namespace and name, the labels of its pods, and the name or number of the port with its metrics."""

    namespace: str
    name: str
    selector: Mapping[str, str]
    port: str | int


@dataclass(frozen=True, slots=True)
class Unfit:
    """NVIDIA's image was tried and did not run: which, since when that is known, and why."""

    image: str
    since: str
    why: str

    def dump(self) -> str:
        """Return it as the annotation's text."""
        return json.dumps({"image": self.image, "since": self.since, "why": self.why})


@dataclass(frozen=True, slots=True)
class Facts:
    """What the cluster says. `nodes` and `pods` are None while they are not known. `running`: what our DaemonSet runs, if there is one."""

    nodes: tuple[Node, ...] | None = None
    pods: tuple[ExporterPod, ...] | None = None
    runtime_class: bool = False
    foreign: tuple[Foreign, ...] = ()
    running: Exporter | None = None
    unfit: Unfit | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What is ours to run, if anything; `unfit` is to be noted on it, `runtime_class` to be run by. `foreign` is used in its place."""

    exporter: Exporter | None = None
    reason: str = "NotAsked"
    why: str = ""
    unfit: Unfit | None = None
    runtime_class: str = ""
    foreign: Foreign | None = None


NO_EXPORTER: Final = Choice()


def unfit_of(daemon_set: Mapping[str, Any] | None) -> Unfit | None:
    """Read the note on our DaemonSet; None where there is none, or it is not ours to understand."""
    text = ((daemon_set or {}).get("metadata", {}).get("annotations") or {}).get(names.ANNOTATION_DCGM_UNFIT, "")
    try:
        return Unfit(**{key: str(value) for key, value in json.loads(text).items()}) if text else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def choose(exporters: Collection[str], settings: Settings, facts: Facts, now: dt.datetime) -> Choice:
    """Choose for the whole cluster: two exporters would report everything twice. `exporters`: those that services ask for."""
    if not settings.gpu_enabled:
        return Choice(None, "Disabled", DISABLED) if exporters else NO_EXPORTER
    if not exporters:
        return NO_EXPORTER
    if facts.foreign:
        first = facts.foreign[0]
        return Choice(
            None, "Existing", f"The dcgm-exporter {first.namespace}/{first.name} is used, which is there already.",
            foreign=first,
        )  # fmt: skip
    runtime = RUNTIME_CLASS if facts.runtime_class else ""
    if "DCGM" in exporters:
        return Choice(
            "DCGM", "Asked", "NVIDIA's dcgm-exporter runs, because spec.gpu.exporter asks for it.", None, runtime
        )
    if "NVML" in exporters:
        return Choice("NVML", "Asked", "Our NVML exporter runs, because spec.gpu.exporter asks for it.", None, runtime)
    return _auto(settings, facts, now, runtime)


def _auto(settings: Settings, facts: Facts, now: dt.datetime, runtime: str) -> Choice:
    if facts.nodes is None or facts.pods is None:
        text = "The operator may not read nodes, runtime classes and its own pods, or has not yet."
        return Choice(facts.running or "NVML", "NotKnown", text, facts.unfit, runtime)
    other = sorted({node.architecture for node in facts.nodes} - set(ARCHITECTURES))
    if other:
        text = f"Our NVML exporter runs: there is no image of NVIDIA's dcgm-exporter for {', '.join(other)}."
        return Choice("NVML", "Architecture", text, None, runtime)
    refusing = sorted(node.name for node in facts.nodes if node.refuses)
    if refusing:
        text = f"Our NVML exporter runs: node {refusing[0]} has the label {NODE_DEPLOY}=false."
        return Choice("NVML", "NodeRefuses", text, None, runtime)
    image = settings.dcgm_image
    unfit = facts.unfit if facts.unfit is not None and facts.unfit.image == image else _failing(image, facts, now)
    if unfit is not None:
        text = (
            f"Our NVML exporter runs: NVIDIA's dcgm-exporter did not ({unfit.since}: {unfit.why}). It is tried again with another image (the "
            f"chart's gpu.dcgmImage), or once the annotation {names.ANNOTATION_DCGM_UNFIT} is taken off DaemonSet {names.GPU_EXPORTER}."
        )
        return Choice("NVML", "DCGMDidNotRun", text, unfit, runtime)
    return Choice("DCGM", "CanRun", "NVIDIA's dcgm-exporter runs: nothing speaks against it.", None, runtime)


def _failing(image: str, facts: Facts, now: dt.datetime) -> Unfit | None:
    """Judge by outcome: no pod with the image is ready, and one has not been for `FAILING`."""
    tried = [pod for pod in facts.pods or () if pod.image == image]
    if any(pod.ready for pod in tried):
        return None
    longest = min(
        (pod for pod in tried if now - pod.since >= FAILING), key=lambda pod: (pod.since, pod.name), default=None
    )
    if longest is None:
        return None
    since = now.replace(microsecond=0).isoformat().replace("+00:00", "Z")
    return Unfit(
        image, since, f"pod {longest.name} on node {longest.node}: {longest.why or 'it does not become ready'}"
    )


def verdict(service: LLMService, choice: Choice, facts: Facts, settings: Settings) -> Verdict | None:
    """Say of a service whether its GPUs are measured, by what and why; None where it does not ask."""
    if service.spec.gpu is None or service.spec.gpu.exporter == "None":
        return None
    if not settings.gpu_enabled or choice.foreign is not None:
        return ("True", choice.reason, choice.why) if settings.gpu_enabled else ("False", "Disabled", DISABLED)
    if facts.nodes is None or facts.pods is None:
        return "Unknown", choice.reason, choice.why
    if not facts.nodes:
        text = f"No node has the label {settings.gpu_node_label}=true (the chart's gpu.nodeLabel): there is no GPU to measure."
        return "False", "NoGPUNode", text
    ready = {pod.node for pod in facts.pods if pod.ready}
    lacking = sorted(node.name for node in facts.nodes if node.name not in ready)
    if not lacking:
        return "True", choice.reason, choice.why
    bad = next((pod for pod in sorted(facts.pods, key=lambda pod: pod.since) if not pod.ready), None)
    what = (
        f"pod {bad.name} on node {bad.node}: {bad.why or 'it is not ready'}"
        if bad
        else f"no pod runs on node {lacking[0]}"
    )
    text = (
        f"The exporter runs on {len(facts.nodes) - len(lacking)} of {len(facts.nodes)} GPU nodes; {what}. {choice.why}"
    )
    return "False", "NotOnAllNodes", text


def pod_of(item: Mapping[str, Any]) -> ExporterPod | None:
    """Read a pod of our DaemonSet; None where it has no node yet, or is going."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    if not spec.get("nodeName") or metadata.get("deletionTimestamp") or not spec.get("containers"):
        return None
    ready: Mapping[str, Any] = next(
        (entry for entry in status.get("conditions") or () if entry.get("type") == "Ready"), {}
    )
    since = ready.get("lastTransitionTime") or metadata["creationTimestamp"]
    return ExporterPod(
        name=metadata["name"],
        node=spec["nodeName"],
        image=spec["containers"][0].get("image", ""),
        ready=ready.get("status") == "True",
        since=dt.datetime.fromisoformat(since),
        why=_why(status),
    )


def _why(status: Mapping[str, Any]) -> str:
    for container in status.get("containerStatuses") or ():
        state, last = container.get("state") or {}, (container.get("lastState") or {}).get("terminated") or {}
        cause = state.get("waiting") or state.get("terminated")
        if cause:
            ended = f" (exit code {last['exitCode']})" if "exitCode" in last else ""
            said = f": {cause['message']}" if cause.get("message") else ""
            return f"{cause.get('reason', 'not started')}{ended}{said}"[:SHOWN]
    return str(status.get("message") or "")[:SHOWN]
