"""The trace collector on a real API server, made with the rights that the chart gives for it: nobody runs its pod."""

import json
from collections.abc import Callable

import pytest
import yaml

from llmwarden import names
from tests.api.operating import LLM, NAMESPACE, USER, Operator, make, sample, until
from tests.api.support import ControlPlane
from tools import manifests

pytestmark = pytest.mark.usefixtures("alone")

OURS = {
    "Deployment": f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{names.COLLECTOR}",
    **{
        kind: f"/api/v1/namespaces/{NAMESPACE}/{plural}/{names.COLLECTOR}"
        for kind, plural in (
            ("Service", "services"),
            ("ConfigMap", "configmaps"),
            ("ServiceAccount", "serviceaccounts"),
        )
    },
}
MERGE = {"Content-Type": "application/merge-patch+json"}
WANTED = {"enabled": True, "exporters": [{"name": "tempo", "endpoint": "tempo:4317", "insecure": True}]}


@pytest.fixture
def granted(crds: ControlPlane, kubeconfig: object) -> None:
    """Give the operator what the chart gives it where the collector is enabled."""
    del kubeconfig  # it has given the rest
    text = manifests.render(settings=["collector.enabled=true"], namespace=NAMESPACE)
    roles = [item for item in yaml.safe_load_all(text) if item and item["kind"] == "Role"]
    wanted = [item for item in roles if item["metadata"]["name"] == names.OPERATOR]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted})
    crds.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=listed)


def there(plane: ControlPlane) -> set[str]:
    return {kind for kind, path in OURS.items() if plane.http.get(path).status_code == 200}


def configuration(plane: ControlPlane) -> tuple[str, str]:
    """What it says, and the mark of the pods that are to read it."""
    template = plane.http.get(OURS["Deployment"]).json()["spec"]["template"]
    text: str = plane.http.get(OURS["ConfigMap"]).json()["data"]["collector.yaml"]
    return text, template["metadata"]["annotations"][names.ANNOTATION_CONFIGURATION]


@pytest.mark.usefixtures("granted")
def test_the_collector_follows_the_services_and_goes_when_it_is_not_wanted(
    crds: ControlPlane, namespace: str, start: Callable[..., Operator]
) -> None:
    make(crds, sample("support-bot", namespace))
    operator = start(LLMWARDEN_COLLECTOR=json.dumps(WANTED))
    until(lambda: there(crds) == set(OURS), "the collector is made")
    text, mark = configuration(crds)
    assert "otlp/browser" not in text

    origins = {"spec": {"tracing": {"browserOrigins": ["https://shop.example.com"]}}}
    changed = crds.http.patch(f"{LLM.format(namespace)}/support-bot", headers=MERGE, json=origins)
    assert changed.status_code == 200, changed.text
    until(lambda: configuration(crds)[1] != mark, "its pods are replaced")
    assert "https://shop.example.com" in configuration(crds)[0]

    # What the API server fills in is no difference: nothing is written again.
    operator.rounds(2)
    before = crds.audit_mark()
    operator.rounds(3)
    assert [write for write in crds.writes(before, USER) if names.COLLECTOR in write] == []

    assert operator.stop() == 0
    start()
    until(lambda: there(crds) == set(), "it is taken away")


@pytest.mark.usefixtures("granted")
def test_the_operator_may_not_touch_anothers_deployment_or_service(crds: ControlPlane) -> None:
    labels = {"app": "ledger"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    made = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": names.LEDGER, "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": labels}, "template": pod},
    }
    crds.kubectl("apply", "-f", "-", given=json.dumps(made))
    try:
        for command in (
            ("delete", "deployment", names.LEDGER),
            ("patch", "deployment", names.LEDGER, "-p", '{"spec": {"replicas": 0}}'),
            ("create", "deployment", "other", "--image=a"),
            ("create", "service", "clusterip", "other", "--tcp=80"),
        ):
            refused = crds.run_kubectl("-n", NAMESPACE, *command, f"--as={USER}")
            assert refused.code != 0, command
            assert "orbidden" in refused.err or "LLM Warden" in refused.err, refused.err
    finally:
        crds.kubectl("delete", "deployment", names.LEDGER, "-n", NAMESPACE)
