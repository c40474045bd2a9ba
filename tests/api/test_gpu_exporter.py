"""Which GPU exporter a cluster gets, on a real API server: nodes, pods and somebody else's DaemonSet are objects there, nobody runs them."""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from llmwarden import names
from llmwarden.settings import Settings
from tests.api.operating import LLM, NAMESPACE, USER, Operator, condition, make, sample, until
from tests.api.support import ControlPlane

pytestmark = pytest.mark.usefixtures("alone")

DAEMON_SETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
OURS = f"{DAEMON_SETS}/{names.GPU_EXPORTER}"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"
MONITOR = f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/podmonitors/{names.GPU_EXPORTER}"
IMAGE = Settings().dcgm_image
MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
def gpus(crds: ControlPlane) -> Iterator[ControlPlane]:
    """Return the control plane; what stands for machines is taken away afterwards."""
    yield crds
    for path in ("/api/v1/nodes", CLASSES):
        for item in crds.http.get(path).json()["items"]:
            crds.http.delete(f"{path}/{item['metadata']['name']}")
    with suppress(httpx.HTTPError):
        crds.http.delete(f"{PODS}/tried", params={"gracePeriodSeconds": 0})


def created(plane: ControlPlane, path: str, item: dict[str, Any]) -> None:
    answer = plane.http.post(path, json=item)
    assert answer.status_code == 201, answer.text


def node(plane: ControlPlane, name: str, architecture: str = "amd64", **labels: str) -> None:
    wanted = {"nvidia.com/gpu.present": "true", "kubernetes.io/arch": architecture, **labels}
    created(plane, "/api/v1/nodes", {"metadata": {"name": name, "labels": wanted}})


def tried(plane: ControlPlane, minutes: float) -> None:
    """Stand for the kubelet of node gpu-a: NVIDIA's exporter cannot be pulled for so long.

    Somebody controls the pod already: the DaemonSet controller, which is real, would adopt it and end it for its failure.
    """
    account = plane.http.get(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{names.GPU_EXPORTER}").json()["metadata"]
    owner = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "name": account["name"],
        "uid": account["uid"],
        "controller": True,
    }
    labels = {names.LABEL_NAME: names.MANAGED_BY, names.LABEL_COMPONENT: "gpu-exporter"}
    container = {"name": "exporter", "image": IMAGE}
    spec = {"nodeName": "gpu-a", "containers": [container], "automountServiceAccountToken": False}
    created(plane, PODS, {"metadata": {"name": "tried", "labels": labels, "ownerReferences": [owner]}, "spec": spec})
    since = (dt.datetime.now(dt.UTC) - dt.timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    status = {
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": since}],
        "containerStatuses": [
            {"name": "exporter", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0, "state": waiting}
        ],
    }
    answer = plane.http.patch(f"{PODS}/tried/status", headers=MERGE, json={"status": status})
    assert answer.status_code == 200, answer.text


def runs(plane: ControlPlane) -> str:
    """Return which exporter our DaemonSet runs; nothing where there is none."""
    answer = plane.http.get(OURS)
    if answer.status_code == 404:
        return ""
    [container] = answer.json()["spec"]["template"]["spec"]["containers"]
    return "DCGM" if container["image"] == IMAGE else "NVML"


def measured(plane: ControlPlane, namespace: str) -> tuple[str, str]:
    return condition(plane, namespace, "chat", "GPUMetricsReady")


def asking(plane: ControlPlane, namespace: str) -> None:
    item = sample("chat", namespace)
    item["spec"]["gpu"] = {"exporter": "Auto"}
    make(plane, item)


def test_nvidias_is_tried_and_ours_takes_over_for_good(
    gpus: ControlPlane, namespace: str, start: Callable[[], Operator]
) -> None:
    created(gpus, CLASSES, {"metadata": {"name": "nvidia"}, "handler": "nvidia"})
    operator = start()
    asking(gpus, namespace)
    until(lambda: runs(gpus) == "DCGM", "NVIDIA's is deployed")
    until(lambda: measured(gpus, namespace) == ("False", "NoGPUNode"), "no node has a GPU")
    assert gpus.http.get(OURS).json()["spec"]["template"]["spec"]["runtimeClassName"] == "nvidia"
    node(gpus, "gpu-a")
    until(lambda: measured(gpus, namespace) == ("False", "NotOnAllNodes"), "nothing runs on it yet")
    tried(gpus, minutes=9)
    operator.rounds(3)
    assert runs(gpus) == "DCGM"
    gpus.http.delete(f"{PODS}/tried", params={"gracePeriodSeconds": 0})
    until(lambda: gpus.http.get(f"{PODS}/tried").status_code == 404, "the pod is gone")
    tried(gpus, minutes=11)
    until(lambda: runs(gpus) == "NVML", "ours takes over")
    noted = json.loads(gpus.http.get(OURS).json()["metadata"]["annotations"][names.ANNOTATION_DCGM_UNFIT])
    assert noted["image"] == IMAGE
    assert "ImagePullBackOff" in noted["why"]
    gpus.http.delete(f"{PODS}/tried", params={"gracePeriodSeconds": 0})
    operator.rounds(3)
    # It stays so, and a restart changes nothing either.
    mark = gpus.audit_mark()
    assert operator.stop() == 0
    operator = start()
    operator.rounds(4)
    assert [write for write in gpus.writes(mark, USER) if "daemonsets" in write] == []
    gone = {"metadata": {"annotations": {names.ANNOTATION_DCGM_UNFIT: None}}}
    assert gpus.http.patch(OURS, headers=MERGE, json=gone).status_code == 200
    until(lambda: runs(gpus) == "DCGM", "the note is taken away: it is tried again")


def test_it_follows_nodes_and_gives_way_to_somebody_elses(
    gpus: ControlPlane, namespace: str, start: Callable[[], Operator], monitoring: Callable[[], None]
) -> None:
    monitoring()
    start()
    node(gpus, "power", "ppc64le")
    asking(gpus, namespace)
    until(lambda: runs(gpus) == "NVML", "NVIDIA's has no image for one of the nodes")
    until(lambda: gpus.http.get(MONITOR).status_code == 200, "it is scraped")
    gpus.http.delete("/api/v1/nodes/power")
    until(lambda: runs(gpus) == "DCGM", "it has for all that are left")
    node(gpus, "gpu-a", **{"nvidia.com/gpu.deploy.dcgm-exporter": "false"})
    until(lambda: runs(gpus) == "NVML", "a node was told to have none")
    labels = {"app": "nvidia-dcgm-exporter"}
    exporter = {
        "name": "x",
        "image": "nvcr.io/nvidia/k8s/dcgm-exporter:4",
        "ports": [{"name": "m", "containerPort": 9400}],
    }
    theirs = {
        "metadata": {"name": "nvidia-dcgm-exporter"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"containers": [exporter]}}},
    }  # fmt: skip
    created(gpus, f"/apis/apps/v1/namespaces/{namespace}/daemonsets", theirs)
    until(lambda: runs(gpus) == "", "ours goes")
    until(lambda: measured(gpus, namespace) == ("True", "Existing"), "the service says so")
    spec = gpus.http.get(MONITOR).json()["spec"]
    assert spec["namespaceSelector"] == {"matchNames": [namespace]}
    assert spec["selector"] == {"matchLabels": labels}
    assert spec["podMetricsEndpoints"][0]["port"] == "m"
    gpus.http.delete(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/nvidia-dcgm-exporter")
    until(lambda: runs(gpus) == "NVML", "theirs is gone: ours comes back")
    gpus.http.delete(f"{LLM.format(namespace)}/chat")
    until(lambda: runs(gpus) == "" and gpus.http.get(MONITOR).status_code == 404, "the last service that asks goes")
