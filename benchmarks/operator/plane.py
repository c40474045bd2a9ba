"""The control plane of a run: the kinds, the chart's rights, namespaces, identities; and what its audit log says."""

import json
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self

import httpx

from benchmarks.operator import services
from cluster import Cluster
from demo import images
from llmwarden import names
from tests.api.operating import INSTALL, NAMESPACE, RIGHTS, USER
from tests.api.support import WRITES, ControlPlane, documents

Object = dict[str, Any]
AT_ONCE: Final = 8  # requests in flight when objects are made
MONITORING: Final = "bench-monitoring"
_HOURS: Final = "24h"
_REPORTER: Final = "reporter"
METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class Plane:
    """One control plane, used as a context manager. `namespaces` is how many namespaces the services live in."""

    def __init__(self, scratch: Path, namespaces: int) -> None:
        self._scratch = scratch
        self.namespaces = namespaces
        # A cluster's name belongs to who made it: another run beside ours has another.
        self._cluster = Cluster(f"bench-operator-{secrets.token_hex(3)}", "control-plane")
        self.api: ControlPlane

    def __enter__(self) -> Self:
        self._cluster.up()
        self.api = ControlPlane.of(self._cluster)
        return self

    def __exit__(self, *_: object) -> None:
        self.api.http.close()
        self._cluster.down()

    @property
    def pids(self) -> dict[str, int]:
        """Processes of the control plane, by name."""
        return {name: pid for name, pid in self._cluster.status().items() if pid}

    def prepare(self, *, shared: bool) -> None:
        """Make all but services: kinds, rights, namespaces, a pod in each of them that usage is reported for."""
        self.api.apply_crds()
        crds = sorted(images.operator_crds().glob("*.yaml"))
        self.api.kubectl("apply", "--server-side", *(word for file in crds for word in ("-f", str(file))))
        kinds = [f"crd/{path.stem.partition('_')[2]}.monitoring.coreos.com" for path in crds]
        self.api.kubectl("wait", "--for=condition=Established", "--timeout=60s", *kinds)
        own = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        monitoring = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": MONITORING}}
        self._apply([own, monitoring])
        self._apply([item for item in documents(INSTALL) if item["kind"] in RIGHTS])
        self._apply(_choosers())
        self._apply([self._namespace(number) for number in range(self.namespaces)])
        if shared:
            self._apply(services.shared(self.namespaces))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            made = list(pool.map(self._reporter, range(self.namespaces)))
        self.reporters.write_text(json.dumps(made), encoding="utf-8")

    @property
    def reporters(self) -> Path:
        """File with the pods that report usage, each with its token for the ledger: `benchmarks.operator.surroundings` reads it."""
        return self._scratch / "reporters.json"

    def kubeconfig(self, account: str) -> Path:
        """A kubeconfig of a service account of the chart's."""
        file = self._scratch / f"{account}.kubeconfig"
        config = json.loads(self.api.kubeconfig.read_text())
        token = self.api.kubectl("create", "token", account, "-n", NAMESPACE, f"--duration={_HOURS}").strip()
        config["users"][0]["user"] = {"token": token}
        file.write_text(json.dumps(config), encoding="utf-8")
        return file

    def ledger_token(self) -> Path:
        """The file of the operator's token for the ledger."""
        file = self._scratch / "ledger-token"
        audience = f"--audience={names.TOKEN_AUDIENCE}"
        token = self.api.kubectl("create", "token", names.OPERATOR, "-n", NAMESPACE, f"--duration={_HOURS}", audience)
        file.write_text(token.strip(), encoding="utf-8")
        return file

    def secret(self, name: str) -> Object | None:
        """A Secret of the product's namespace; None where it is not there."""
        answer = self.api.http.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
        return None if answer.status_code == httpx.codes.NOT_FOUND else _object(answer)

    def create(self, path: Callable[[Object], str], items: Iterable[Object]) -> None:
        """Create objects, several at a time."""

        def one(item: Object) -> None:
            _object(self.api.http.post(path(item), json=item))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(one, items):
                pass

    def names_of(self, path: str, selector: str = "") -> dict[tuple[str, str], str]:
        """Name and version of every object under a path, by metadata alone."""
        found: dict[tuple[str, str], str] = {}
        parameters = {"limit": "500", **({"labelSelector": selector} if selector else {})}
        while True:
            answer = _object(self.api.http.get(path, params=parameters, headers={"Accept": METADATA}))
            for item in answer["items"] or []:  # an empty page has none at all
                metadata = item["metadata"]
                found[metadata.get("namespace", ""), metadata["name"]] = metadata["resourceVersion"]
            if not answer["metadata"].get("continue"):
                return found
            parameters["continue"] = answer["metadata"]["continue"]

    def mark(self) -> int:
        """Where the audit log ends."""
        return self.api.audit_mark()

    def writes(self, since: int) -> list[Object]:
        """The operator's writes after a mark, as audit events."""
        return self.api.audit(since, verbs=WRITES, user=USER)

    def _apply(self, items: list[Object]) -> None:
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        self.api.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=given)

    @staticmethod
    def _namespace(number: int) -> Object:
        labels = {"cost-center": services.COST_CENTER} if number % 2 else {}
        metadata = {"name": services.namespace(number), "labels": labels}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}

    def _reporter(self, number: int) -> Object:
        """Make the pod of a namespace that usage is reported for, and its token."""
        namespace = services.namespace(number)
        base = f"/api/v1/namespaces/{namespace}"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": _REPORTER}}
        _object(self.api.http.post(f"{base}/serviceaccounts", json=account))
        container = {"name": "app", "image": "app"}
        spec = {"containers": [container], "serviceAccountName": _REPORTER, "automountServiceAccountToken": False}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": _REPORTER}, "spec": spec}
        made = _object(self.api.http.post(f"{base}/pods", json=pod))
        bound = {"apiVersion": "v1", "kind": "Pod", "name": _REPORTER, "uid": made["metadata"]["uid"]}
        wanted = {"audiences": [names.TOKEN_AUDIENCE], "expirationSeconds": 86_400, "boundObjectRef": bound}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": wanted}
        token = _object(self.api.http.post(f"{base}/serviceaccounts/{_REPORTER}/token", json=request))
        return {
            "namespace": namespace,
            "name": _REPORTER,
            "uid": bound["uid"],
            "token": token["status"]["token"],
        }


def _choosers() -> list[Object]:
    """A Prometheus and an Alertmanager that select everything, so that statuses have nothing to complain of."""
    everything: Object = {}
    selectors = ("serviceMonitor", "podMonitor", "scrapeConfig", "rule")
    prometheus = {f"{name}{end}": everything for name in selectors for end in ("Selector", "NamespaceSelector")} | {
        "replicas": 1,
        "serviceAccountName": "default",
    }
    alertmanager = {
        "replicas": 1,
        "alertmanagerConfigSelector": everything,
        "alertmanagerConfigNamespaceSelector": everything,
    }
    found = (("Prometheus", prometheus), ("Alertmanager", alertmanager))
    return [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": kind,
            "metadata": {"name": "bench", "namespace": MONITORING},
            "spec": spec,
        }
        for kind, spec in found
    ]


def _object(answer: httpx.Response) -> Object:
    if answer.is_error:
        message = f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:500]}"
        raise RuntimeError(message)
    found: Object = answer.json()
    return found
