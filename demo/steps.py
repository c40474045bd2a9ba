"""The steps of the demo, each whole by itself: `python -m demo` runs them in a row, the end-to-end tests take what they need.

Every step can be repeated: it brings about a state, and is quick where that state is there already. Every wait has an end, and says
then what is wrong with the pods concerned. All raise ClusterError (DemoError is one).
"""

import datetime as dt
import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.lifecycle import Cluster
from cluster.target import External, Local, Target
from demo import compare, engines, images
from demo.kube import DemoError, Kube, condition, documents
from image import build
from llmwarden import names

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = Path(__file__).resolve().parent / "manifests"
SAMPLES = ROOT / "manifests/samples"
INSTALL = ROOT / "manifests/install.yaml"

MONITORING = "monitoring"
SYSTEM = names.DEFAULT_NAMESPACE
PROMETHEUS_URL = "http://prometheus-operated.monitoring.svc:9090"
PROVIDER_URL = "http://openai-simulator.providers.svc"
# What the demo sets of LLM Warden's settings: it looks more often, so that a person does not have to wait.
SETTINGS: Mapping[str, str] = {
    "LLMWARDEN_PROMETHEUS_URL": PROMETHEUS_URL,
    "LLMWARDEN_SCRAPE_INTERVAL": "5s",
    "LLMWARDEN_STATUS_SECONDS": "10",
    "LLMWARDEN_REPORT_SECONDS": "2",
}
ENGINES = ("simulator", "vllm")
# What the caller of `chat` asks for: calls a second, tokens an answer. The real engine shares two cores with all the rest.
CHAT_LOAD: Mapping[str, Mapping[str, str]] = {
    "simulator": {"demo/chat-rate": "2", "demo/chat-tokens": "256"},
    "vllm": {"demo/chat-rate": "0.25", "demo/chat-tokens": "16"},
}
PRODUCT_IMAGE = build.PRODUCT.tag
_STEPS = 9
_WARM_UP_SECONDS = 20.0


@dataclass
class Progress:
    """Prints one line per step: the seconds since the start, the step's number, and what it does."""

    started: float = field(default_factory=time.monotonic)
    done: int = 0

    def step(self, text: str) -> None:
        """Start the next step and print it."""
        self.done += 1
        self.say(f"[{self.done}/{_STEPS}] {text}")

    def say(self, text: str) -> None:
        """Print a line."""
        print(f"demo: {time.monotonic() - self.started:4.0f} s  {text}", file=sys.stderr, flush=True)


def cluster_with_images(target: Target, engine: str = "simulator") -> tuple[Kube, images.Images]:
    """Bring the cluster up and build the images, side by side, then load what the cluster has not got yet."""
    if engine == "vllm" and not isinstance(target, Local):
        message = "ENGINE=vllm runs on our own cluster only (CLUSTER unset): its files are mounted from this machine."
        raise DemoError(message)
    with ThreadPoolExecutor(max_workers=3) as pool:
        building = pool.submit(images.make, local=isinstance(target, Local) or images.offline())
        if engine == "vllm":
            pool.submit(engines.vllm)
        kubeconfig = target.up()
        made = building.result()
    load(target, made)
    return Kube(kubeconfig), made


def load(target: Target, made: images.Images) -> None:
    """Load archives into the cluster; an archive's name says its content, so each is loaded once."""
    if isinstance(target, External):
        if not images.loaded():
            again = "DEMO_IMAGES=offline,loaded" if images.offline() else "DEMO_IMAGES=loaded"
            message = (
                f"The nodes of this cluster need the images in {', '.join(str(path) for path in made.archives)}. Load them, then run "
                f"this command again with {again}."
            )
            if not images.offline():
                message += " If the nodes reach no registry, start with DEMO_IMAGES=offline: it also builds the images of the monitoring programs."
            raise DemoError(message)
        return
    memory = Cluster(target.name).state.root / "loaded-images" if isinstance(target, Local) else None
    known = set(memory.read_text().split()) if memory and memory.exists() else set()
    new = [path for path in made.archives if path.name not in known]
    if new:
        target.load_images(new)
    if memory:
        memory.write_text("\n".join(path.name for path in made.archives))


def install_monitoring(kube: Kube, made: images.Images) -> None:
    """Apply the Prometheus Operator, Prometheus, Alertmanager and the alert receiver; does not wait."""
    arguments = ["apply", "--server-side", "--force-conflicts", "--field-manager=demo", "-f"]
    kube.run(*arguments, str(images.operator_crds()), timeout=180)
    for kind in ("prometheuses", "alertmanagers", "podmonitors", "prometheusrules"):
        kube.run("wait", "--for=condition=Established", "crd", f"{kind}.monitoring.coreos.com", "--timeout=60s")
    kube.apply(*documents(MANIFESTS / "monitoring.yaml", made.names))


def wait_monitoring(kube: Kube, seconds: float = 180) -> None:
    """Wait until Prometheus and Alertmanager serve."""
    kube.wait_rolled_out("deployment", "prometheus-operator", MONITORING, seconds)
    for name in ("prometheus-demo", "alertmanager-demo"):
        kube.wait_rolled_out("statefulset", name, MONITORING, seconds)
    kube.wait_rolled_out("deployment", "alert-sink", MONITORING, seconds)


def install_warden(kube: Kube, settings: Mapping[str, str] = SETTINGS, image: str = PRODUCT_IMAGE) -> None:
    """Apply LLM Warden as its manifests have it, with our image and `settings` over it; does not wait.

    Processes read their settings once: pods are replaced when settings or image differ from what runs.
    """
    found = documents(INSTALL)
    for document in found:
        if document["kind"] == "ConfigMap" and document["metadata"]["name"] == "llmwarden-settings":
            document["data"] |= {"LLMWARDEN_IMAGE": image, **settings}
        if document["kind"] == "Deployment":
            template = document["spec"]["template"]
            annotations = template["metadata"].setdefault("annotations", {})
            annotations["demo/settings"] = json.dumps({**settings, "image": image_identity()}, sort_keys=True)
            for container in template["spec"]["containers"]:
                container["image"] = image
    crds = [document for document in found if document["kind"] == "CustomResourceDefinition"]
    kube.apply(*crds)
    for crd in crds:
        kube.run("wait", "--for=condition=Established", "crd", crd["metadata"]["name"], "--timeout=60s")
    kube.apply(*(document for document in found if document not in crds))


def image_identity() -> str:
    """Return the name of the product's newest archive, which changes with its content: the tag alone does not."""
    return build.build(build.PRODUCT).stem


def wait_warden(kube: Kube, seconds: float = 180) -> None:
    """Wait until operator, webhook and ledger are ready."""
    # The operator first: the others wait for certificates that it makes.
    for name in (names.OPERATOR, names.LEDGER, names.WEBHOOK):
        kube.wait_rolled_out("deployment", name, SYSTEM, seconds)


def apply_services(kube: Kube) -> None:
    """Apply the samples, as they are but for the provider's address, and what the demo adds to them."""
    kube.apply(*documents(MANIFESTS / "prerequisites.yaml"))
    for name in ("budgets-and-prices", "chat-vllm", "support-bot"):
        kube.apply(*documents(SAMPLES / f"{name}.yaml", {"https://api.openai.com": PROVIDER_URL}))
    kube.apply(*documents(MANIFESTS / "services.yaml"))


def services(kube: Kube) -> dict[str, dict[str, Any]]:
    """Return the LLMServices by `namespace/name`."""
    found = kube.items("llmservices.llmwarden.io")
    return {f"{item['metadata']['namespace']}/{item['metadata']['name']}": item for item in found}


def wait_injecting(kube: Kube, namespaces: tuple[str, ...] = ("shop", "models"), seconds: float = 90) -> None:
    """Wait until the API server asks our webhook about new pods of these namespaces."""

    def check() -> str:
        found = kube.get("mutatingwebhookconfiguration", names.WEBHOOK_CONFIGURATION)
        text = json.dumps(found.get("webhooks", []))
        missing = [name for name in namespaces if f'"{name}"' not in text]
        return f"the webhook configuration does not name {', '.join(missing)}" if missing else ""

    kube.wait("injection", check, seconds, lambda: kube.trouble(SYSTEM))


def apply_workloads(kube: Kube, made: images.Images, engine: str = "simulator") -> None:
    """Apply engine, provider's stand-in and applications; does not wait. `engine` is one of ENGINES."""
    replace = {**made.names, **CHAT_LOAD[engine], **(engines.replacements() if engine == "vllm" else {})}
    found = documents(MANIFESTS / f"engine-{engine}.yaml", replace) + documents(MANIFESTS / "workloads.yaml", replace)
    identity = build.build(images.WORKLOADS).stem
    for document in found:
        if document["kind"] == "Deployment":
            # The tag stays when the image's content changes: pods are replaced all the same.
            document["spec"]["template"]["metadata"]["annotations"] = {"demo/image": identity}
    kube.apply(*found)


WORKLOADS = (
    ("providers", "openai-simulator"),
    ("models", "vllm-chat"),
    ("shop", "support-bot"),
    ("shop", "trial"),
    ("callers", "chat-caller"),
)
METERED = {"shop/support-bot": "app=support-bot", "shop/trial": "app=trial", "models/chat": "app=vllm-chat"}


def wait_workloads(kube: Kube, seconds: float = 120) -> None:
    """Wait until all workloads are ready and the metered ones have a proxy; a pod that came too early is replaced once."""
    for key, selector in METERED.items():
        namespace = key.partition("/")[0]
        if any(not injected(pod) for pod in kube.pods(namespace, selector)):
            deployment = selector.partition("=")[2]
            kube.run("-n", namespace, "rollout", "restart", f"deployment/{deployment}")
    for namespace, name in WORKLOADS:
        kube.wait_rolled_out("deployment", name, namespace, seconds)
    for key, selector in METERED.items():
        bare = [pod["metadata"]["name"] for pod in kube.pods(key.partition("/")[0], selector) if not injected(pod)]
        if bare:
            message = f"{key}: {', '.join(bare)} started without a proxy\n{kube.trouble(SYSTEM)}"
            raise DemoError(message)


def injected(pod: Mapping[str, Any]) -> bool:
    """Whether a pod has the proxy."""
    return any(each["name"] == names.PROXY_CONTAINER for each in pod["spec"].get("initContainers", []))


def wait_figures(kube: Kube, seconds: float = 150) -> None:
    """Wait until the status of the metered services holds usage, money and latency, and MetricsFresh is True."""

    def check() -> str:
        found = services(kube)
        missing = []
        for key in METERED:
            status = found[key].get("status", {})
            summary = status.get("summary", {})
            lacking = [
                name
                for name in ("pods", "ttftP95", "p95", "errors", "costPerRequest", "spent", "budget")
                if not summary.get(name)
            ]
            if lacking:
                missing.append(f"{key} has no {', '.join(lacking)}")
            elif condition(found[key], "MetricsFresh").get("status") != "True":
                missing.append(f"{key}: MetricsFresh is {condition(found[key], 'MetricsFresh')}")
        return "; ".join(missing)

    kube.wait("figures in the status", check, seconds, lambda: figures_hint(kube))


def figures_hint(kube: Kube) -> str:
    """Say what the conditions and our own processes' last log lines are: what a person would look at."""
    lines = []
    for key, item in services(kube).items():
        lines += [
            f"  {key} {each['type']}={each['status']} {each.get('reason')}: {each.get('message')}"
            for each in item.get("status", {}).get("conditions", [])
            if each.get("status") != "True"
        ]
    for pod in kube.pods(SYSTEM, ""):
        name = pod["metadata"]["name"]
        lines += [
            f"  {name} | {line}" for line in kube.logs(SYSTEM, name, pod["spec"]["containers"][0]["name"], lines=5)
        ]
    return "\n".join([*lines, kube.trouble(SYSTEM, MONITORING, "shop", "models")])


def figures(kube: Kube, namespace: str, application: str, seconds: float = 300, until: str = "") -> dict[str, Any]:
    """Return what an application of the demo measured itself (`GET /figures`, see demo/workloads/client.py).

    `until` is an RFC 3339 time, such as a status' `asOf`; default now.
    """
    pods = kube.pods(namespace, f"app={application}")
    if not pods:
        message = f"{application} has no pod in {namespace}"
        raise DemoError(message)
    end = f"&until={dt.datetime.fromisoformat(until).timestamp():.3f}" if until else ""
    path = f"/figures?seconds={seconds:g}{end}"
    found: dict[str, Any] = kube.read_pod(namespace, pods[0]["metadata"]["name"], 8080, path)
    return found


def wait_refusal(kube: Kube, application: str = "trial", namespace: str = "shop", seconds: float = 150) -> str:
    """Wait until the small budget has run out and the application was refused; returns what its client was told."""
    text = ""

    def check() -> str:
        nonlocal text
        found = figures(kube, namespace, application)
        text = found["refusal"]
        return "" if text else f"{application} has not been refused yet: {found['requests']}"

    kube.wait("a refusal by the used-up budget", check, seconds, lambda: figures_hint(kube))
    return text


def alerts(kube: Kube) -> list[dict[str, Any]]:
    """Return what the alert receiver has got so far: status, labels, annotations."""
    found: list[dict[str, Any]] = kube.read(MONITORING, "alert-sink", "http", "/alerts")
    return found


def wait_alert(kube: Kube, service: str = "trial", namespace: str = "shop", seconds: float = 150) -> dict[str, Any]:
    """Wait until an alert about a budget of the service has come through Prometheus and Alertmanager to the receiver."""
    alert: dict[str, Any] = {}

    def check() -> str:
        nonlocal alert
        came = alerts(kube)
        for each in came:
            labels = each["labels"]
            about = labels.get("namespace") == namespace and labels.get(names.LABEL_M_SERVICE) == service
            if about and each["status"] == "firing" and "budget" in labels["alertname"].lower():
                alert = each
                return ""
        return f"the receiver has received {sorted({each['labels']['alertname'] for each in came})}, rules: {rule_states(kube)}"

    kube.wait(f"an alert about {namespace}/{service}'s budget", check, seconds, lambda: figures_hint(kube))
    return alert


def rule_states(kube: Kube) -> dict[str, str]:
    """Return the state of each alerting rule in Prometheus."""
    groups = prometheus(kube, "/api/v1/rules?type=alert")["data"]["groups"]
    return {f"{group['name']}/{rule['name']}": rule["state"] for group in groups for rule in group["rules"]}


def prometheus(kube: Kube, path: str) -> dict[str, Any]:
    """GET a path of Prometheus' HTTP API."""
    found: dict[str, Any] = kube.read(MONITORING, "prometheus-operated", "web", path)
    return found


def comparison(kube: Kube, seconds: float = 120) -> list[compare.Row]:
    """Compare support-bot's own figures with its status, until they agree or `seconds` have passed; returns the last."""
    price = kube.get("modelprices.llmwarden.io", "gpt-4o-mini-contract")["spec"]["prices"][-1]
    prices = (float(price["inputPerMillionTokens"]), float(price["outputPerMillionTokens"]))
    whole = only_one_ever(kube, "shop", "support-bot")
    deadline = time.monotonic() + seconds
    while True:
        status = services(kube)["shop/support-bot"].get("status", {})
        own = figures(kube, "shop", "support-bot", until=status.get("asOf", ""))
        if status.get("asOf"):
            # What came before Prometheus' first scrape of the pod is in no rate of it, and a start's calls are slow.
            lived = dt.datetime.fromisoformat(status["asOf"]).timestamp() - own["startedAt"] - _WARM_UP_SECONDS
            seconds_seen = max(1.0, min(300.0, lived))
            own = figures(kube, "shop", "support-bot", seconds_seen, status["asOf"])
        rows = compare.rows(own, status, prices, whole=whole)
        if all(row.agrees() for row in rows) or time.monotonic() > deadline:
            return rows
        time.sleep(3)


def only_one_ever(kube: Kube, namespace: str, application: str) -> bool:
    """Whether the application's present process is the first and only one that it ever had, for less than a day."""
    sets = kube.items("replicasets", namespace, f"app={application}")
    pods = kube.pods(namespace, f"app={application}")
    if len(sets) != 1 or len(pods) != 1:
        return False
    states = pods[0]["status"].get("containerStatuses", [])
    born = dt.datetime.fromisoformat(pods[0]["metadata"]["creationTimestamp"])
    young = dt.datetime.now(dt.UTC) - born < dt.timedelta(hours=24)
    return young and all(state.get("restartCount", 0) == 0 for state in states)


def remove(kube: Kube) -> None:
    """Delete what the demo applied, from a cluster that is not ours: services first, while LLM Warden can still clean up."""
    delete = ["delete", "--ignore-not-found", "--wait=true", "--timeout=120s", "-f"]
    for path in (
        MANIFESTS / "services.yaml",
        SAMPLES,
        MANIFESTS / "workloads.yaml",
        INSTALL,
        MANIFESTS / "prerequisites.yaml",
    ):
        try:
            kube.run(*delete, str(path), timeout=300)
        except ClusterError as error:
            # The kinds are gone already when a removal is repeated.
            if "no matches for kind" not in str(error):
                raise
    for kind, name in (("mutatingwebhookconfiguration", names.WEBHOOK_CONFIGURATION), ("namespace", MONITORING)):
        kube.run("delete", kind, name, "--ignore-not-found", timeout=300)
    for kind in ("clusterrolebinding", "clusterrole"):
        kube.run(
            "delete", kind, "llmwarden-demo-prometheus", "llmwarden-demo-prometheus-operator", "--ignore-not-found"
        )
    kube.run("delete", "--ignore-not-found", "-f", str(images.operator_crds()), timeout=300)


def table(kube: Kube) -> str:
    """Return `kubectl get llm -A -o wide`."""
    return kube.run("get", "llm", "-A", "-o", "wide")


def program(path: Path) -> str:
    """Return a path as a person would type it from the repository's folder."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
