"""The rendered chart: exact text for review, and what must hold of every rendering."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmwarden import names
from llmwarden.settings import Settings, load
from tools import manifests

HERE = Path(__file__).parent
VALUES = sorted((HERE / "values").glob("*.yaml"))
KINDS = {
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "CustomResourceDefinition",
    "Deployment",
    "MutatingWebhookConfiguration",
    "NetworkPolicy",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "Role",
    "RoleBinding",
    "Service",
    "ServiceAccount",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
CLUSTER_SCOPED = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}
COMPONENTS = {"operator", "webhook", "ledger"}


@pytest.fixture(scope="session", autouse=True)
def _helm() -> None:
    try:
        manifests.helm()
    except manifests.MissingHelmError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def objects(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def rendered(*settings: str, values: Path | None = None, namespace: str = manifests.NAMESPACE) -> list[dict[str, Any]]:
    return objects(manifests.render([values] if values else [], namespace=namespace, settings=settings))


@pytest.fixture(scope="session", params=VALUES, ids=[path.stem for path in VALUES])
def chart(request: pytest.FixtureRequest, _helm: None) -> list[dict[str, Any]]:
    return rendered(values=request.param)


def pods(chart: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in chart:
        if item["kind"] == "Deployment":
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]


def rules(chart: list[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for item in chart:
        if item["kind"] in {"Role", "ClusterRole"}:
            for rule in item["rules"]:
                yield item["kind"], item["metadata"]["name"], rule


@pytest.mark.parametrize("values", VALUES, ids=[path.stem for path in VALUES])
def test_rendering_is_as_reviewed(values: Path, golden: Callable[[Path, str], None]) -> None:
    golden(HERE / "expected" / values.name, manifests.render([values], settings=["crds.install=false"]))


def test_two_renderings_are_equal() -> None:
    # A random or timed value would make Argo CD see a difference for ever.
    assert manifests.render() == manifests.render()


def test_generated_files_are_up_to_date() -> None:
    stale = [str(path) for path, text in manifests.products().items() if not path.exists() or path.read_text() != text]
    assert stale == []
    assert {path.name for path in manifests.CRDS.glob("*.yaml")} == {
        path.name for path in manifests.CHART_CRDS.glob("*.yaml")
    }


def test_helm_lint_is_content() -> None:
    command = [manifests.helm(), "lint", "--strict", "--kube-version", manifests.KUBE_VERSION, str(manifests.CHART)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_known_kinds_in_the_release_namespace(chart: list[dict[str, Any]]) -> None:
    assert {item["kind"] for item in chart} <= KINDS
    for item in chart:
        expected = None if item["kind"] in CLUSTER_SCOPED else manifests.NAMESPACE
        assert item["metadata"].get("namespace") == expected, item["metadata"]["name"]


def test_another_namespace_reaches_everything() -> None:
    for item in rendered(namespace="elsewhere"):
        assert "llmwarden-system" not in yaml.safe_dump(item) or item["kind"] == "CustomResourceDefinition"


def test_crds_are_whole_and_kept() -> None:
    crds = [item for item in rendered() if item["kind"] == "CustomResourceDefinition"]
    assert {item["spec"]["names"]["kind"] for item in crds} == {
        "LLMService",
        "LLMBudget",
        "ClusterLLMBudget",
        "ModelPrice",
        "ProviderAccount",
    }
    sources = [objects(path.read_text())[0] for path in sorted(manifests.CRDS.glob("*.yaml"))]
    for item, source in zip(
        sorted(crds, key=lambda one: str(one["metadata"]["name"])),
        sorted(sources, key=lambda one: str(one["metadata"]["name"])),
        strict=True,
    ):
        assert item["spec"] == source["spec"]
        assert item["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_every_pod_meets_pod_security_restricted(chart: list[dict[str, Any]]) -> None:
    seen = set()
    for name, pod in pods(chart):
        seen.add(name)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert all(volume.keys() & {"emptyDir", "projected", "persistentVolumeClaim"} for volume in pod["volumes"])
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["port"] == "metrics"
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]  # noqa: S108 - the pod's own
    assert seen == {names.OPERATOR, names.WEBHOOK, names.LEDGER}


def test_roles_and_ports_agree_with_the_code(chart: list[dict[str, Any]]) -> None:
    deployments = {item["metadata"]["name"]: item for item in chart if item["kind"] == "Deployment"}
    services = {item["metadata"]["name"]: item for item in chart if item["kind"] == "Service"}
    for component in COMPONENTS:
        deployment = deployments[f"llmwarden-{component}"]
        template = deployment["spec"]["template"]
        (container,) = template["spec"]["containers"]
        assert container["args"] == [component]
        assert template["spec"]["serviceAccountName"] == f"llmwarden-{component}"
        assert (
            template["metadata"]["labels"].items()
            >= {
                names.LABEL_NAME: "llmwarden",
                names.LABEL_COMPONENT: component,
            }.items()
        )
        assert {port["name"]: port["containerPort"] for port in container["ports"]}["metrics"] == names.METRICS_PORT
    for name, port in ((names.WEBHOOK, names.WEBHOOK_PORT), (names.LEDGER, names.LEDGER_PORT)):
        (container,) = deployments[name]["spec"]["template"]["spec"]["containers"]
        assert {"name": "https", "containerPort": port} in container["ports"]
        assert services[name]["spec"]["ports"][0]["targetPort"] == "https"
        labels = deployments[name]["spec"]["template"]["metadata"]["labels"]
        assert services[name]["spec"]["selector"].items() <= labels.items()
    assert services[names.LEDGER]["spec"]["ports"][0]["port"] == names.LEDGER_PORT
    assert services[names.WEBHOOK]["spec"]["ports"][0]["port"] == 443
    operator = deployments[names.OPERATOR]["spec"]
    assert (operator["replicas"], operator["strategy"]) == (1, {"type": "Recreate"})
    ledger = deployments[names.LEDGER]["spec"]
    assert (ledger["replicas"], ledger["strategy"]) == (1, {"type": "Recreate"})


def test_the_operators_token_is_for_the_ledger() -> None:
    pod = dict(pods(rendered()))[names.OPERATOR]
    (container,) = pod["containers"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == names.VOLUME_TOKEN]
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == names.TOKEN_AUDIENCE
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    variables = {item["name"]: item.get("value") for item in container["env"]}
    assert f"{mounts[names.VOLUME_TOKEN]}/{source['serviceAccountToken']['path']}" == names.TOKEN_FILE
    assert variables["LLMWARDEN_TOKEN_FILE"] == names.TOKEN_FILE


def settings_of(chart: list[dict[str, Any]]) -> dict[str, str]:
    (config,) = [item for item in chart if item["kind"] == "ConfigMap"]
    data: dict[str, str] = config["data"]
    return data


def test_default_values_are_the_codes_defaults() -> None:
    environment = settings_of(rendered())
    variables = {f"LLMWARDEN_{name.upper()}" for name in Settings.__slots__}
    assert set(environment) == variables - {"LLMWARDEN_NAMESPACE", "LLMWARDEN_DATABASE_URL"}
    assert load(environment) == Settings(image="llmwarden:0.1.0")


def test_a_database_s_url_comes_from_a_secret_and_several_replicas_share_it() -> None:
    chart = rendered("ledger.postgresql.secretName=accounts", "ledger.replicas=3")
    (ledger,) = [
        item for item in chart if item["kind"] == "Deployment" and item["metadata"]["name"] == "llmwarden-ledger"
    ]
    pod = ledger["spec"]["template"]["spec"]
    (url,) = [item for item in pod["containers"][0]["env"] if item["name"] == "LLMWARDEN_DATABASE_URL"]
    assert url["valueFrom"] == {"secretKeyRef": {"name": "accounts", "key": "url"}}
    assert ledger["spec"]["replicas"] == 3
    assert "Recreate" not in str(ledger["spec"]["strategy"])
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp"]
    assert not [item for item in chart if item["kind"] == "PersistentVolumeClaim"]


def test_values_reach_the_settings() -> None:
    settings = load(settings_of(rendered(values=HERE / "values" / "full.yaml")))
    assert settings.allowed_hosts == ("llm.example.com", "*.corp.example")
    assert settings.rule_labels == {"release": "kps"}
    assert settings.prometheus_timeout == 3.5
    assert settings.workers == 16
    assert settings.image.startswith("registry.example.com/platform/llmwarden@sha256:")


def test_a_changed_setting_restarts_the_pods() -> None:
    def marks(chart: list[dict[str, Any]]) -> set[str]:
        return {
            item["spec"]["template"]["metadata"]["annotations"]["llmwarden.io/settings"]
            for item in chart
            if item["kind"] == "Deployment"
        }

    before, after = marks(rendered()), marks(rendered("logLevel=DEBUG"))
    assert len(before) == len(after) == 1
    assert before != after


def test_no_rule_has_a_wildcard(chart: list[dict[str, Any]]) -> None:
    for _, name, rule in rules(chart):
        for key in ("apiGroups", "resources", "verbs"):
            assert not any("*" in entry for entry in rule[key]), name
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), name
        assert "nonResourceURLs" not in rule


def test_secrets_only_in_our_namespace_and_by_name(chart: list[dict[str, Any]]) -> None:
    for kind, name, rule in rules(chart):
        if "secrets" not in rule["resources"]:
            continue
        assert kind == "Role", name
        if rule["verbs"] != ["create"]:  # a create has no name yet
            known = {names.SECRET_CA, names.SECRET_WEBHOOK_TLS, names.SECRET_LEDGER_TLS, names.SECRET_PROVIDER_KEYS}
            assert set(rule["resourceNames"]) <= known
    readers = {
        name: rule["resourceNames"]
        for _, name, rule in rules(chart)
        if "secrets" in rule["resources"] and "resourceNames" in rule
    }
    assert readers["llmwarden-webhook"] == [names.SECRET_WEBHOOK_TLS]
    assert readers["llmwarden-ledger"] == [names.SECRET_LEDGER_TLS, names.SECRET_PROVIDER_KEYS]
    assert names.SECRET_PROVIDER_KEYS not in readers["llmwarden-operator"]


def test_nobody_writes_what_git_or_users_own(chart: list[dict[str, Any]]) -> None:
    writes = {"create", "update", "patch", "delete", "deletecollection"}
    never = {
        "deployments",
        "replicasets",
        "statefulsets",
        "pods",
        "nodes",
        "namespaces",
        "services",
        "roles",
        "clusterroles",
    }
    for kind, name, rule in rules(chart):
        if name == "llmwarden-edit" or not writes & set(rule["verbs"]):
            continue
        collectors = rule.get("resourceNames") == [names.COLLECTOR] or rule["verbs"] == ["create"]
        if kind == "Role" and collectors and rule["resources"] in (["deployments"], ["services"]):
            continue  # the trace collector, in our own namespace
        assert not never & set(rule["resources"]), (kind, name)
        if "llmwarden.io" in rule["apiGroups"]:
            assert all("/" in resource for resource in rule["resources"]), (kind, name)


@pytest.mark.parametrize("enabled", [True, False])
def test_deployments_and_services_are_made_only_for_a_wanted_collector(*, enabled: bool) -> None:
    made = [
        resource
        for _, _, rule in rules(rendered(f"collector.enabled={str(enabled).lower()}"))
        if "create" in rule["verbs"]
        for resource in rule["resources"]
        if resource in {"deployments", "services"}
    ]
    assert made == (["deployments", "services"] if enabled else [])


def operators(*settings: str) -> list[dict[str, Any]]:
    return [rule for _, name, rule in rules(rendered(*settings)) if name == names.OPERATOR]


def verbs(resource: str, *settings: str) -> set[str]:
    return {verb for rule in operators(*settings) if resource in rule["resources"] for verb in rule["verbs"]}


def test_the_webhook_configuration_is_made_by_the_chart_and_filled_by_name(chart: list[dict[str, Any]]) -> None:
    (made,) = [item for item in chart if item["kind"] == "MutatingWebhookConfiguration"]
    assert made["metadata"]["name"] == names.WEBHOOK_CONFIGURATION
    assert "webhooks" not in made  # not even an empty list: a sync would put that back
    given = [rule for rule in operators() if "mutatingwebhookconfigurations" in rule["resources"]]
    assert {(*rule["resourceNames"],): {*rule["verbs"]} for rule in given} == {
        (names.WEBHOOK_CONFIGURATION,): {"get", "list", "watch", "patch"},
        (names.OLD_WEBHOOK_CONFIGURATION,): {"get", "delete"},
    }


def test_what_can_be_written_by_name_is() -> None:
    """In our own namespace, and what is in no namespace; beside services names are not known beforehand."""
    for kind, name, rule in rules(rendered("collector.enabled=true")):
        if name == names.OPERATOR and kind == "Role" and {"patch", "update", "delete"} & set(rule["verbs"]):
            assert rule.get("resourceNames"), rule


def test_without_gpus_there_is_no_right_to_what_their_exporters_need() -> None:
    off = "gpu.enabled=false"
    for resource in ("daemonsets", "serviceaccounts", "runtimeclasses"):
        assert verbs(resource)
        assert not verbs(resource, off)
    assert verbs("nodes") == {"get", "list", "watch"}
    assert verbs("nodes", off) == {"get"}
    for rule in operators(off, "collector.enabled=true"):
        if "serviceaccounts" in rule["resources"]:
            assert "delete" not in rule["verbs"] or names.COLLECTOR in rule["resourceNames"]
    assert load(settings_of(rendered(off))).gpu_enabled is False


@pytest.mark.parametrize("groups", [(), ("platform", "oidc:dev"), ("system:authenticated",)])
def test_the_ledger_is_reached_through_the_api_server_by_the_groups_that_are_named(groups: tuple[str, ...]) -> None:
    made = rendered(*(f"rbac.askLedger[{number}]={group}" for number, group in enumerate(groups)))
    (role,) = [item for item in made if item["kind"] == "Role" and item["metadata"]["name"] == names.ROLE_ASK]
    assert role["rules"][0]["verbs"] == ["get"]
    bindings = [item for item in made if item["kind"] == "RoleBinding" and item["roleRef"]["name"] == names.ROLE_ASK]
    assert tuple(subject["name"] for binding in bindings for subject in binding["subjects"]) == groups
    assert not any("system:authenticated" in str(item.get("subjects")) for item in rendered())


def test_only_the_operator_writes_anything_but_reviews(chart: list[dict[str, Any]]) -> None:
    for _, name, rule in rules(chart):
        if name in {"llmwarden-webhook", "llmwarden-ledger"} and rule["resources"] not in (
            ["tokenreviews"],
            ["subjectaccessreviews"],
        ):
            assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_teams_edit_their_own_and_the_platforms_is_read_only() -> None:
    roles = {item["metadata"]["name"]: item for item in rendered() if item["kind"] == "ClusterRole"}
    (edit,) = roles["llmwarden-edit"]["rules"]
    assert edit["resources"] == ["llmservices", "llmbudgets"]
    assert "rbac.authorization.k8s.io/aggregate-to-view" not in roles["llmwarden-edit"]["metadata"]["labels"]
    (view,) = roles["llmwarden-view"]["rules"]
    assert set(view["resources"]) == {"llmservices", "llmbudgets", "clusterllmbudgets", "modelprices"}
    assert view["verbs"] == ["get", "list", "watch"]


def test_what_providers_bill_is_in_no_role_of_teams_and_their_keys_are_the_ledgers_alone(
    chart: list[dict[str, Any]],
) -> None:
    readers = {name for _, name, rule in rules(chart) if "provideraccounts" in rule["resources"]}
    readers.discard("llmwarden-accounts")  # there where roles are made for users at all
    assert readers == {"llmwarden-operator", "llmwarden-ledger"}
    roles = {item["metadata"]["name"]: item for item in rendered() if item["kind"] == "ClusterRole"}
    assert not any("aggregate" in label for label in roles["llmwarden-accounts"]["metadata"]["labels"])
    keys = {name for _, name, rule in rules(chart) if "llmwarden-provider-keys" in rule.get("resourceNames", ())}
    assert keys == {"llmwarden-ledger"}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("webhook.replicas=0", "replicas"),
        ("injection.webhookTimeoutSeconds=31", "webhookTimeoutSeconds"),
        ("prometheus.url=prometheus:9090", "url"),
        ("logLevel=LOUD", "logLevel"),
        ("ledger.persistance.enabled=false", "persistance"),
        ("ledger.replicas=2", "secretName"),
        ("backends.allowedHosts[0]=https://example.com", "allowedHosts"),
        ("webhook.clientCA=ca.crt", "clientCA"),
        ("gpu.enabled=maybe", "enabled"),
        ("rbac.askLedger=everybody", "askLedger"),
    ],
)
def test_a_wrong_value_is_refused_by_name(setting: str, says: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        rendered(setting)
    assert says in failure.value.stderr


def test_oldest_kubernetes_gets_no_admission_policy_and_an_older_one_is_refused() -> None:
    kinds = {item["kind"] for item in objects(manifests.render(kube_version="1.29.0"))}
    assert "Deployment" in kinds
    assert "ValidatingAdmissionPolicy" not in kinds
    with pytest.raises(subprocess.CalledProcessError) as failure:
        manifests.render(kube_version="1.28.9")
    assert "1.29" in failure.value.stderr


def test_the_operator_may_read_nothing_that_it_does_not_use(chart: list[dict[str, Any]]) -> None:
    used = {
        *("pods", "namespaces", "services", "endpointslices", "configmaps", "serviceaccounts", "daemonsets", "secrets"),
        *("deployments", "nodes", "runtimeclasses"),
        *(
            "podmonitors",
            "servicemonitors",
            "scrapeconfigs",
            "networkpolicies",
            "prometheusrules",
            "alertmanagerconfigs",
            "grafanadashboards",
            "prometheuses",
            "alertmanagers",
            "grafanas",
            "mutatingwebhookconfigurations",
            "customresourcedefinitions",
        ),
        *("llmservices", "llmbudgets", "clusterllmbudgets", "modelprices", "provideraccounts"),
    }
    for kind, name, rule in rules(chart):
        if name == "llmwarden-operator" and {"get", "list", "watch"} & set(rule["verbs"]):
            assert set(rule["resources"]) <= used, (kind, rule)
