"""The rendered installation on a real API server: it applies, and each process may do what it needs and no more."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.operating import until, wait_for_namespace
from tests.api.support import ControlPlane, Run

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "manifests" / "install.yaml"
NAMESPACE = "llmwarden-system"
HOOKS = "mutatingwebhookconfigurations.admissionregistration.k8s.io"


@pytest.fixture(scope="module")
def installed(crds: ControlPlane) -> Iterator[ControlPlane]:
    # Our CRDs are others' too in this session: only what is not a CRD is taken away again.
    wait_for_namespace(crds)
    crds.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(INSTALL))
    secret = f"{{apiVersion: v1, kind: Secret, metadata: {{name: other, labels: {OURS}}}}}"
    given = ("create", "--dry-run=server", "-n", NAMESPACE, who("operator"), "-f", "-")
    until(lambda: "certificates" in crds.run_kubectl(*given, given=secret).err, "the admission policy has an effect")
    yield crds
    crds.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "llmwarden-operator")
    crds.kubectl("delete", "clusterrole,clusterrolebinding", "-l", "app.kubernetes.io/name=llmwarden")
    crds.kubectl("delete", "mutatingwebhookconfiguration", "llmwarden-pods")
    crds.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def who(component: str) -> str:
    return f"--as={user(component)}"


def user(component: str) -> str:
    return f"system:serviceaccount:{NAMESPACE}:llmwarden-{component}"


def may(plane: ControlPlane, person: str, verb: str, what: str, namespace: str = "") -> bool:
    """Ask the API server; `what` is RESOURCE[.GROUP][/SUBRESOURCE][=NAME], no namespace means all of them."""
    path, _, name = what.partition("=")
    kind, _, subresource = path.partition("/")
    resource, _, group = kind.partition(".")
    attributes = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name}
    answer = plane.http.post(
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        json={"spec": {"user": person, "resourceAttributes": {**attributes, "namespace": namespace}}},
    )
    return bool(answer.raise_for_status().json()["status"]["allowed"])


def test_applying_twice_changes_nothing(installed: ControlPlane) -> None:
    before = versions(installed)
    installed.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(INSTALL))
    assert versions(installed) == before


def versions(plane: ControlPlane) -> dict[str, str]:
    template = "-o=jsonpath={range .items[*]}{.kind}/{.metadata.name}={.metadata.generation}:{.metadata.labels.helm\\.sh/chart} {end}"
    kinds = "deployments,services,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets"
    text = plane.kubectl("get", kinds, "-n", NAMESPACE, "-l", "app.kubernetes.io/name=llmwarden", template)
    found = dict(pair.split("=", 1) for pair in text.split())
    assert len(found) > 10
    return found


@pytest.mark.parametrize(
    ("component", "verb", "resource", "namespace", "expected"),
    [
        ("operator", "watch", "llmservices.llmwarden.io", "", True),
        ("operator", "patch", "llmservices.llmwarden.io/status", "", True),
        ("operator", "patch", "llmservices.llmwarden.io", "", False),
        ("operator", "create", "pods/eviction", "", True),
        ("operator", "delete", "pods", "", False),
        ("operator", "patch", "prometheusrules.monitoring.coreos.com", "", True),
        ("operator", "patch", "alertmanagerconfigs.monitoring.coreos.com", "", True),
        ("operator", "patch", "servicemonitors.monitoring.coreos.com", "", True),
        ("operator", "patch", "scrapeconfigs.monitoring.coreos.com", "", True),
        ("operator", "patch", "networkpolicies.networking.k8s.io", "", True),
        ("operator", "watch", "prometheuses.monitoring.coreos.com", "", True),
        ("operator", "patch", "prometheuses.monitoring.coreos.com", "", False),
        ("operator", "list", "alertmanagers.monitoring.coreos.com", "", True),
        ("operator", "watch", "grafanas.grafana.integreatly.org", "", True),
        ("operator", "patch", "grafanas.grafana.integreatly.org", "", False),
        ("operator", "get", "secrets=llmwarden-ca", NAMESPACE, True),
        ("operator", "get", "secrets=other", NAMESPACE, False),
        ("operator", "get", "secrets", "default", False),
        ("operator", "create", "secrets", "default", False),
        ("operator", "patch", f"{HOOKS}=llmwarden-pods", "", True),
        ("operator", "list", f"{HOOKS}=llmwarden-pods", "", True),
        ("operator", "delete", f"{HOOKS}=llmwarden-pods", "", False),
        ("operator", "delete", f"{HOOKS}=llmwarden", "", True),
        ("operator", "patch", f"{HOOKS}=llmwarden", "", False),
        ("operator", "create", HOOKS, "", False),
        ("operator", "list", HOOKS, "", False),
        ("operator", "patch", f"{HOOKS}=other", "", False),
        ("operator", "patch", "daemonsets.apps=llmwarden-gpu-exporter", NAMESPACE, True),
        ("operator", "patch", "daemonsets.apps=other", NAMESPACE, False),
        ("operator", "patch", "daemonsets.apps=llmwarden-gpu-exporter", "default", False),
        ("operator", "patch", "serviceaccounts=llmwarden-ledger", NAMESPACE, False),
        ("operator", "create", "serviceaccounts/token=llmwarden-ledger", NAMESPACE, False),
        ("operator", "patch", "deployments.apps", NAMESPACE, False),
        ("webhook", "watch", "llmservices.llmwarden.io", "", True),
        ("webhook", "get", "secrets=llmwarden-webhook-tls", NAMESPACE, True),
        ("webhook", "get", "secrets=llmwarden-ca", NAMESPACE, False),
        ("webhook", "get", "pods", "", False),
        ("ledger", "create", "tokenreviews.authentication.k8s.io", "", True),
        ("ledger", "watch", "modelprices.llmwarden.io", "", True),
        ("ledger", "get", "secrets=llmwarden-ledger-tls", NAMESPACE, True),
        ("ledger", "get", "secrets=llmwarden-webhook-tls", NAMESPACE, False),
        ("ledger", "watch", "provideraccounts.llmwarden.io", "", True),
        ("ledger", "get", "secrets=llmwarden-provider-keys", NAMESPACE, True),
        ("ledger", "list", "secrets", NAMESPACE, False),
        ("operator", "get", "secrets=llmwarden-provider-keys", NAMESPACE, False),
        ("operator", "patch", "provideraccounts.llmwarden.io/status", "", True),
        ("webhook", "get", "secrets=llmwarden-provider-keys", NAMESPACE, False),
        ("viewer", "list", "provideraccounts.llmwarden.io", "", True),
        ("ledger", "patch", "llmbudgets.llmwarden.io", "", False),
    ],
)
def test_each_process_may_do_its_work_and_no_more(
    installed: ControlPlane, component: str, verb: str, resource: str, namespace: str, *, expected: bool
) -> None:
    assert may(installed, user(component), verb, resource, namespace) is expected


def configmap(name: str, labels: str = "{}", owners: str = "[]", value: str = "1") -> str:
    return (
        f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, labels: {labels}, ownerReferences: {owners}}}, "
        f'data: {{v: "{value}"}}}}'
    )


OURS = "{app.kubernetes.io/managed-by: llmwarden}"


def as_operator(plane: ControlPlane, namespace: str, text: str) -> Run:
    arguments = ("apply", "--server-side", "--field-manager=llmwarden", "--force-conflicts", "-n", namespace)
    return plane.run_kubectl(*arguments, who("operator"), "-f", "-", given=text)


def test_the_operator_cannot_touch_what_it_did_not_make(installed: ControlPlane, namespace: str) -> None:
    installed.kubectl("apply", "-n", namespace, "-f", "-", given=configmap("theirs"))
    taken = as_operator(installed, namespace, configmap("theirs", OURS, value="2"))
    assert taken.code != 0
    assert "only what it made" in taken.err
    deleted = installed.run_kubectl("delete", "configmap", "theirs", "-n", namespace, who("operator"))
    assert deleted.code != 0
    assert "only what it made" in deleted.err
    unlabelled = as_operator(installed, namespace, configmap("new"))
    assert unlabelled.code != 0
    assert "managed-by" in unlabelled.err


def test_the_operator_makes_mends_and_deletes_its_own(installed: ControlPlane, namespace: str) -> None:
    assert as_operator(installed, namespace, configmap("ours", OURS)).code == 0
    assert as_operator(installed, namespace, configmap("ours", OURS, value="2")).code == 0
    # Taken off by hand: the owner reference is still there.
    service = (
        "{apiVersion: llmwarden.io/v1alpha1, kind: LLMService, metadata: {name: chat}, "
        "spec: {backend: {type: VLLM}, workload: {selector: {matchLabels: {app: chat}}, interception: {type: Port, port: {name: http}}}}}"
    )
    installed.kubectl("apply", "-n", namespace, "-f", "-", given=service)
    uid = installed.kubectl("get", "llmservice", "chat", "-n", namespace, "-o=jsonpath={.metadata.uid}")
    owner = f"[{{apiVersion: llmwarden.io/v1alpha1, kind: LLMService, name: chat, uid: {uid}}}]"
    assert as_operator(installed, namespace, configmap("ours", OURS, owner)).code == 0
    installed.kubectl("label", "configmap", "ours", "-n", namespace, "app.kubernetes.io/managed-by-")
    mended = as_operator(installed, namespace, configmap("ours", OURS, owner))
    assert mended.code == 0, mended.err
    assert installed.run_kubectl("delete", "configmap", "ours", "-n", namespace, who("operator")).code == 0


def test_the_operator_makes_no_secret_but_its_own(installed: ControlPlane) -> None:
    def secret(name: str) -> str:
        return f"{{apiVersion: v1, kind: Secret, metadata: {{name: {name}, labels: {OURS}}}}}"

    def create(text: str) -> Run:
        # RBAC limits a patch by name and a create not: there the admission policy does.
        return installed.run_kubectl("create", "-n", NAMESPACE, who("operator"), "-f", "-", given=text)

    refused = create(secret("other"))
    assert refused.code != 0
    assert "only the Secrets of its certificates" in refused.err
    account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: other, labels: {a: b}}}"
    refused = create(account)
    assert refused.code != 0
    assert "managed-by" in refused.err
    made = as_operator(installed, NAMESPACE, secret("llmwarden-ca"))
    assert made.code == 0, made.err
    installed.kubectl("delete", "secret", "llmwarden-ca", "-n", NAMESPACE)


def test_who_asks_the_ledger_through_the_api_server_is_named(installed: ControlPlane) -> None:
    """By default no group is: an ordinary user, and a pod's service account, are refused by the API server itself."""
    path = f"/api/v1/namespaces/{NAMESPACE}/services/https:llmwarden-ledger:https/proxy/v1/spend"
    for person in ("dana", "system:serviceaccount:default:default"):
        refused = installed.run_kubectl("get", "--raw", path, f"--as={person}", "--as-group=system:authenticated")
        assert refused.code != 0
        assert "services/proxy" in refused.err
    installed.kubectl("create", "rolebinding", "ask", "--role=llmwarden-ask", "--group=platform", "-n", NAMESPACE)
    asked = installed.run_kubectl("get", "--raw", path, "--as=dana", "--as-group=platform")
    assert "forbidden" not in asked.err.lower()  # there is no pod behind it here


def test_nobody_else_is_held_to_it(installed: ControlPlane, namespace: str) -> None:
    installed.kubectl("create", "configmap", "free", "-n", namespace)
    installed.kubectl("delete", "configmap", "free", "-n", namespace)


def test_a_team_edits_its_services_and_only_reads_the_platforms(installed: ControlPlane, namespace: str) -> None:
    installed.kubectl("create", "rolebinding", "team", "--clusterrole=edit", "--user=dana", "-n", namespace)

    # The controller manager aggregates the roles a moment after they are made.
    deadline = time.monotonic() + 30
    while not may(installed, "dana", "create", "llmservices.llmwarden.io", namespace) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert may(installed, "dana", "create", "llmservices.llmwarden.io", namespace)
    assert may(installed, "dana", "patch", "llmbudgets.llmwarden.io", namespace)
    assert may(installed, "dana", "get", "llmbudgets.llmwarden.io", namespace)
    assert not may(installed, "dana", "patch", "llmservices.llmwarden.io/status", namespace)
    for platform in ("clusterllmbudgets.llmwarden.io", "modelprices.llmwarden.io", "provideraccounts.llmwarden.io"):
        assert not may(installed, "dana", "create", platform)


LIMIT = 'limit: {amount: "5"}, window: {calendar: Day}'
SPECS = {
    "LLMService": "{backend: {type: OpenAI}, workload: {selector: {matchLabels: {app: bot}}}}",
    "LLMBudget": f"{{selector: {{matchLabels: {{team: a}}}}, {LIMIT}}}",
    "ClusterLLMBudget": f"{{namespaceSelector: {{matchLabels: {{team: a}}}}, {LIMIT}}}",
    "ModelPrice": (
        '{provider: OpenAI, models: [m], prices: [{from: "2026-01-01T00:00:00Z", inputPerMillionTokens: "0", outputPerMillionTokens: "0"}]}'
    ),
    "ProviderAccount": "{provider: OpenAI, adminKey: openai}",
}
OWN = ("LLMService", "LLMBudget")
PLATFORM = ("ClusterLLMBudget", "ModelPrice", "ProviderAccount")


def writes(plane: ControlPlane, person: str, kind: str, namespace: str, spec: str = "") -> Run:
    """Really write, as this person."""
    place = f", namespace: {namespace}" if kind in OWN else ""
    text = f"{{apiVersion: llmwarden.io/v1alpha1, kind: {kind}, metadata: {{name: written{place}}}, spec: {spec or SPECS[kind]}}}"
    return plane.run_kubectl("apply", f"--as={person}", "-f", "-", given=text)


def reads(plane: ControlPlane, person: str, kind: str, namespace: str) -> Run:
    place = ("-n", namespace) if kind in OWN else ()
    return plane.run_kubectl("get", f"{kind.lower()}s.llmwarden.io", *place, f"--as={person}")


def test_with_the_aggregated_roles_a_team_writes_its_own_kinds_and_none_of_the_platforms(
    installed: ControlPlane, namespace: str
) -> None:
    """Real requests of real people: one who may edit a namespace, one who may view it, one who may nothing."""
    for person, role in (("erin", "edit"), ("vera", "view")):
        installed.kubectl("create", "rolebinding", person, f"--clusterrole={role}", f"--user={person}", "-n", namespace)
    deadline = time.monotonic() + 30
    while not may(installed, "vera", "list", "llmbudgets.llmwarden.io", namespace) and time.monotonic() < deadline:
        time.sleep(0.1)  # the controller manager aggregates the roles a moment after they are made
    installed.kubectl(
        "create", "secret", "generic", "llmwarden-provider-keys", "-n", NAMESPACE, "--from-literal=openai=sk-admin"
    )
    try:
        for kind in OWN:
            made = writes(installed, "erin", kind, namespace)
            assert made.code == 0, made.err
            assert reads(installed, "vera", kind, namespace).code == 0
            for person in ("vera", "nobody"):
                refused = writes(
                    installed, person, kind, namespace, SPECS[kind].replace("bot", "other").replace('"5"', '"6"')
                )
                assert refused.code != 0
                assert "forbidden" in refused.err
        assert "forbidden" in reads(installed, "nobody", "LLMBudget", namespace).err
        for kind in PLATFORM:
            for person in ("erin", "vera"):
                refused = writes(installed, person, kind, namespace)
                assert refused.code != 0
                assert "forbidden" in refused.err
                assert "forbidden" in reads(installed, person, kind, namespace).err  # bound in its namespace only
        for person in ("erin", "vera"):
            secret = installed.run_kubectl(
                "get", "secret", "llmwarden-provider-keys", "-n", NAMESPACE, f"--as={person}"
            )
            assert "forbidden" in secret.err
    finally:
        installed.kubectl("delete", "secret", "llmwarden-provider-keys", "-n", NAMESPACE)


def test_who_views_the_whole_cluster_sees_what_binds_it_but_not_what_providers_bill(installed: ControlPlane) -> None:
    installed.kubectl("create", "clusterrolebinding", "wide-view", "--clusterrole=view", "--user=wanda")
    try:
        deadline = time.monotonic() + 30
        while not may(installed, "wanda", "list", "modelprices.llmwarden.io") and time.monotonic() < deadline:
            time.sleep(0.1)
        for kind in ("ClusterLLMBudget", "ModelPrice"):
            assert reads(installed, "wanda", kind, "").code == 0
            assert "forbidden" in writes(installed, "wanda", kind, "").err
        assert "forbidden" in reads(installed, "wanda", "ProviderAccount", "").err
    finally:
        installed.kubectl("delete", "clusterrolebinding", "wide-view")
