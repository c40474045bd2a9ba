"""A service of which every signal exists: an engine behind the proxy that fails now and then, a model without a price, a GPU.

The GPU is pretended: our exporter, run as its DaemonSet runs it, with a compiled stub of NVIDIA's library and with a kubelet's socket that
gives four devices each to this engine's pod and to the demo's (both are the unit tier's). It is scraped by the PodMonitor that the operator made.
"""

import shutil
import subprocess
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any

from demo import steps
from demo.kube import Kube
from llmwarden import names
from tests.e2e.support import deployment, llm, service
from tests.unit.gpu import kubelet

NAMESPACE = "everything"
SERVICE = "engine"
MODEL = "nobody-has-priced-this"
EXPORTER = "pretended-gpus"
FILES = "/pretended"
_STUB = Path(kubelet.__file__).with_name("nvml_stub.c")
_KUBELET = """
import sys, time
from pathlib import Path
import kubelet
pods = [name.split("/") for name in sys.argv[2:]]
kubelet.Kubelet(Path(sys.argv[1]), [(*pods[number % 2], "app", "nvidia.com/gpu", f"GPU-{number}") for number in range(8)])
time.sleep(1e9)
"""


def apply(kube: Kube) -> None:
    """Apply namespace and service."""
    spec = {
        "backend": {"type": "VLLM"},
        "workload": {
            "selector": {"matchLabels": {"app": SERVICE}},
            "interception": {"type": "Port", "port": {"name": "http"}},
        },
        "budgets": [
            {
                "name": "tokens",
                "limit": {"tokens": 100_000_000},
                "window": {"calendar": "Month"},
                "warnAtPercent": [80],
                "onExceeded": {"action": "Alert"},
            }
        ],
        "objectives": [
            _latency("first-token", "TimeToFirstToken", "500ms"),
            _latency("per-token", "TimePerOutputToken", "50ms"),
            _latency("answer", "RequestDuration", "10s"),
            _share("errors", errors={}),
            _share("availability", availability={}),
            _share("queue", queueTime={"threshold": "500ms"}),
            _share("cache", kvCache={"thresholdPercent": 90}),
            {"name": "spend", "spend": {"perHour": "50.00"}},
        ],
        "alerts": {"enable": ["LLMLatencyP99High"]},
        "gpu": {"exporter": "NVML"},
    }
    kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, llm(NAMESPACE, SERVICE, spec)
    )


def _latency(name: str, indicator: str, threshold: str) -> dict[str, Any]:
    return _share(name, latency={"indicator": indicator, "threshold": threshold})


def _share(name: str, **kind: Any) -> dict[str, Any]:
    return {"name": name, **kind, "targetPercent": "95", "window": "28d"}


def apply_workloads(kube: Kube) -> None:
    """Apply engine and caller. The webhook must be asked about the namespace by now."""
    env = {"MODELS": MODEL, "ERROR_PERCENT": "20", "TTFT_MS": "50-100", "OUTPUT_TOKENS": "10-30"}
    url = f"http://{SERVICE}.{NAMESPACE}.svc/v1"
    kube.apply(
        service(NAMESPACE, SERVICE, "http"),
        deployment(NAMESPACE, SERVICE, env=env, container={"ports": [{"name": "http", "containerPort": 8000}]}),
        deployment(
            NAMESPACE,
            "caller",
            program="client.py",
            env={"OPENAI_API_KEY": "dummy", "MODEL": MODEL, "RATE": "2", "OPENAI_BASE_URL": url},
        ),
    )


def apply_gpus(kube: Kube) -> None:
    """Give both engines' pods pretended GPUs. The demo's must be there."""
    kube.wait_rolled_out("deployment", SERVICE, NAMESPACE, 120)
    engines = ((NAMESPACE, SERVICE), ("models", "vllm-chat"))
    pods = [f"{where}/{kube.pods(where, f'app={app}')[0]['metadata']['name']}" for where, app in engines]
    labels = {names.LABEL_NAME: names.MANAGED_BY, names.LABEL_COMPONENT: "gpu-exporter"}  # what the PodMonitor asks for
    files = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": EXPORTER, "namespace": steps.SYSTEM},
        "data": {"kubelet.py": Path(kubelet.__file__).read_text(encoding="utf-8"), "main.py": _KUBELET, "state": ""},
        "binaryData": {"libnvidia-ml.so.1": b64encode(_library()).decode()},
    }
    container = {
        "image": steps.PRODUCT_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "volumeMounts": [{"name": "files", "mountPath": FILES}, {"name": "socket", "mountPath": "/socket"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 2,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                **container,
                "name": "kubelet",
                "command": ["python3", f"{FILES}/main.py", "/socket/kubelet.sock", *pods],
            },
            {
                **container,
                "name": "exporter",
                "args": [
                    "gpu-exporter",
                    "--port",
                    str(names.GPU_EXPORTER_PORT),
                    "--pod-resources",
                    "/socket/kubelet.sock",
                ],
                "env": [
                    {"name": "LD_LIBRARY_PATH", "value": FILES},
                    {"name": "NVML_STUB", "value": f"{FILES}/state"},
                    {"name": "LLMWARDEN_NODE_NAME", "value": "pretended"},
                ],
                "ports": [{"name": "metrics", "containerPort": names.GPU_EXPORTER_PORT}],
            },
        ],
        "volumes": [
            {"name": "files", "configMap": {"name": EXPORTER}},
            {"name": "socket", "emptyDir": {}},
        ],
    }
    kube.apply(
        files,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": EXPORTER, "namespace": steps.SYSTEM},
            "spec": {
                "selector": {"matchLabels": {"app": EXPORTER}},
                "template": {
                    "metadata": {"labels": {"app": EXPORTER, **labels}, "annotations": {"of": " ".join(pods)}},
                    "spec": spec,
                },
            },
        },
    )


def _library() -> bytes:
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "no C compiler for the stub of libnvidia-ml: apt-get install gcc"
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "libnvidia-ml.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", str(target), str(_STUB)], check=True)
        return target.read_bytes()
