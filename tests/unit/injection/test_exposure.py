"""Every way by which a container beside the proxy could get its key, and none that is no way."""

import json
from typing import Any

import pytest

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.control.observe.stripping import strip_pod
from llmwarden.injection.pods import view
from llmwarden.injection.sidecar import decide
from llmwarden.settings import Settings

RESTRICTED = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
SETTINGS = Settings(image="llmwarden:test")


def service(**backend: Any) -> LLMService:
    return parse(
        LLMService,
        {
            "apiVersion": names.API_VERSION,
            "kind": "LLMService",
            "metadata": {"name": "bot", "namespace": "shop"},
            "spec": {
                "backend": {"type": "OpenAI", "credentialsSecretRef": {"name": "openai", "key": "key"}, **backend},
                "workload": {"selector": {"matchLabels": {"app": "bot"}}},
            },
        },
    )


def pod(
    *, volumes: Any = (), init: Any = (), ephemeral: Any = (), spec: Any = None, **container: Any
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "bot",
            "namespace": "shop",
            "uid": "u",
            "labels": {"app": "bot"},
            "creationTimestamp": "2026-12-01T00:00:00Z",
        },
        "spec": {
            "containers": [{"name": "app", "image": "bot:1", "securityContext": RESTRICTED, **container}],
            **({"volumes": list(volumes)} if volumes else {}),
            **({"initContainers": list(init)} if init else {}),
            **({"ephemeralContainers": list(ephemeral)} if ephemeral else {}),
            **(spec or {}),
        },
        "status": {},
    }


def injected(given: dict[str, Any], one: LLMService) -> tuple[dict[str, Any], set[str]]:
    done = decide(given, [one], SETTINGS, namespace="shop", namespace_labels={}, ca_pem="CA")
    assert done.services == ("bot",)
    return done.pod, {finding.reason for finding in done.findings}


def live(given: dict[str, Any], one: LLMService) -> set[str]:
    """Reasons that the operator sees in the pod as it keeps it, whatever the pod's annotation says."""
    stripped = json.loads(json.dumps(strip_pod({**given, "metadata": {**given["metadata"], "uid": "u"}})))
    stripped["metadata"]["annotations"].pop(names.ANNOTATION_FINDINGS, None)
    return {finding.reason for finding in view(stripped, one, [one], {}, SETTINGS).exposed}


def mounting(volume: dict[str, Any], **mount: Any) -> dict[str, Any]:
    return pod(volumes=[{"name": "v", **volume}], volumeMounts=[{"name": "v", "mountPath": "/v", **mount}])


HELPER = {"name": "helper", "image": "h", "securityContext": RESTRICTED}
FROM_SECRET = {"env": [{"name": "ANY_NAME", "valueFrom": {"secretKeyRef": {"name": "openai", "key": "key"}}}]}
OWN_KEY = [
    pod(**FROM_SECRET),
    pod(env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "openai", "key": "key", "optional": True}}}]),
    pod(envFrom=[{"secretRef": {"name": "openai"}}]),
    pod(envFrom=[{"prefix": "P_", "secretRef": {"name": "openai", "optional": True}}]),
    pod(init=[{**HELPER, **FROM_SECRET}]),
    pod(init=[{**HELPER, "restartPolicy": "Always", "envFrom": [{"secretRef": {"name": "openai"}}]}]),
    mounting({"secret": {"secretName": "openai"}}),
    mounting({"secret": {"secretName": "openai"}}, subPath="key"),
    mounting(
        {"secret": {"secretName": "openai", "items": [{"key": "other", "path": "a"}, {"key": "key", "path": "b"}]}}
    ),
    mounting({"projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "openai"}}]}}),
    mounting({"projected": {"sources": [{"secret": {"name": "openai", "items": [{"key": "key", "path": "k"}]}}]}}),
]
HARMLESS = [
    pod(),
    pod(env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "openai", "key": "other"}}}]),
    pod(env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "database", "key": "key"}}}]),
    pod(envFrom=[{"secretRef": {"name": "database"}}, {"configMapRef": {"name": "openai"}}]),
    pod(volumes=[{"name": "unused", "secret": {"secretName": "openai"}}]),
    mounting({"secret": {"secretName": "openai", "items": [{"key": "other", "path": "a"}]}}),
    mounting({"projected": {"sources": [{"secret": {"name": "openai", "items": [{"key": "other", "path": "k"}]}}]}}),
    mounting({"configMap": {"name": "openai"}}),
    mounting({"emptyDir": {}}),
    # The same Secret under the variable that clients read becomes a dummy.
    pod(env=[{"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "openai", "key": "key"}}}]),
]


@pytest.mark.parametrize("given", OWN_KEY)
def test_the_secret_in_another_container_is_an_own_key(given: dict[str, Any]) -> None:
    made, reasons = injected(given, service())
    assert "OwnKey" in reasons
    assert live(made, service()) == {"OwnKey"}


@pytest.mark.parametrize("given", HARMLESS)
def test_what_is_no_way_to_the_key_is_none(given: dict[str, Any]) -> None:
    made, reasons = injected(given, service())
    assert reasons <= {"BaseUrlMayBeHidden"}
    assert not live(made, service())


def test_a_client_certificate_s_key_is_a_key() -> None:
    one = service(clientCertificateSecretRef={"name": "mtls"})
    made, reasons = injected(pod(envFrom=[{"secretRef": {"name": "mtls"}}]), one)
    assert "OwnKey" in reasons
    assert live(made, one) == {"OwnKey"}


@pytest.mark.parametrize("volume", sorted(names.VOLUMES))
def test_the_application_does_not_get_the_proxy_s_volumes(volume: str) -> None:
    """A pod may name a volume that only injection makes: without injection it would be invalid."""
    mount = {"name": volume, "mountPath": "/stolen"}
    own = {"name": "own", "mountPath": "/own"}
    given = pod(
        volumes=[{"name": "own", "emptyDir": {}}], volumeMounts=[mount, own], init=[{**HELPER, "volumeMounts": [mount]}]
    )
    made, reasons = injected(given, service())
    assert "OurVolumeUnmounted" in reasons
    others = [*made["spec"]["containers"], *made["spec"]["initContainers"][1:]]
    assert [item.get("volumeMounts") for item in others] == [[own], []]
    assert not live(made, service())


@pytest.mark.parametrize("volume", sorted(names.VOLUMES))
def test_a_mount_that_came_after_injection_is_seen(volume: str) -> None:
    made, _ = injected(pod(), service())
    made["spec"]["ephemeralContainers"] = [{**HELPER, "volumeMounts": [{"name": volume, "mountPath": "/stolen"}]}]
    assert live(made, service()) == {"OurVolumeMounted"}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (pod(spec={"shareProcessNamespace": True}), "ProcessesShared"),
        (pod(spec={"hostPID": True}), "ProcessesShared"),
        (pod(ephemeral=[{**HELPER, "targetContainerName": names.PROXY_CONTAINER}]), "ProcessesShared"),
        (pod(ephemeral=[{**HELPER, **FROM_SECRET}]), "OwnKey"),
        (pod(securityContext={"privileged": True}), "NodeReachable"),
        (pod(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}), "NodeReachable"),
        (pod(securityContext={"capabilities": {"add": ["CAP_SYS_PTRACE"]}}), "NodeReachable"),
        (mounting({"hostPath": {"path": "/var/lib/kubelet"}}), "NodeReachable"),
        (pod(env=[{"name": "HTTPS_PROXY", "value": "http://mine:1"}]), "EgressOfApplication"),
        (pod(env=[{"name": "all_proxy", "value": "http://mine:1"}]), "EgressOfApplication"),
    ],
)
def test_what_reaches_the_proxy_another_way_is_named(given: dict[str, Any], reason: str) -> None:
    made, reasons = injected(given, service())
    assert reason in reasons
    assert live(made, service()) == {reason}


@pytest.mark.parametrize("given", [*OWN_KEY, mounting({"hostPath": {"path": "/"}}), pod(spec={"hostPID": True})])
def test_a_proxy_without_a_key_has_none_to_lose(given: dict[str, Any]) -> None:
    one = service(credentialsSecretRef=None)
    made, reasons = injected(given, one)
    assert reasons <= {"BaseUrlMayBeHidden"}
    assert not live(made, one)


@pytest.mark.parametrize(
    ("context", "sees"),
    [
        (RESTRICTED, False),
        ({"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": False}, True),  # root may write /etc/hosts
        ({"runAsUser": 1000, "allowPrivilegeEscalation": False}, False),
        ({}, True),
        ({"runAsUser": 0, "allowPrivilegeEscalation": False}, True),
        ({"runAsUser": 1000}, True),
        ({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}, True),
    ],
)
def test_without_tls_whoever_sees_the_pod_s_packets_reads_the_key(*, context: dict[str, Any], sees: bool) -> None:
    given = pod(securityContext=context)
    plain = service(url="http://engine.shop.svc:8000")
    made, reasons = injected(given, plain)
    assert ("NetworkShared" in reasons) == sees
    assert (live(made, plain) == {"NetworkShared"}) == sees
    made, _ = injected(given, service())
    assert not live(made, service())


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"])
def test_no_authority_of_the_application_is_trusted_beside_a_key(variable: str) -> None:
    """With it, the HTTP proxy that the application names could read the key."""
    given = pod(
        volumes=[{"name": "ca", "emptyDir": {}}],
        volumeMounts=[{"name": "ca", "mountPath": "/ca"}],
        env=[{"name": variable, "value": "/ca/mine.pem"}, {"name": "HTTPS_PROXY", "value": "http://127.0.0.1:9"}],
    )
    made, reasons = injected(given, service())
    assert {"AuthoritiesNotCopied", "EgressOfApplication"} <= reasons
    proxy = made["spec"]["initContainers"][0]
    assert "ca" not in {mount["name"] for mount in proxy["volumeMounts"]}
    assert "caFile" not in json.loads(proxy["env"][0]["value"])
    made, _ = injected(given, service(credentialsSecretRef=None))
    assert "ca" in {mount["name"] for mount in made["spec"]["initContainers"][0]["volumeMounts"]}


def test_what_env_from_may_bring_is_not_copied_beside_a_key() -> None:
    """By the pod alone nobody can tell whether it names an HTTP proxy: every such pod would be Advisory."""
    given = pod(envFrom=[{"configMapRef": {"name": "settings"}}])
    made, reasons = injected(given, service())
    copied = {item["name"] for item in made["spec"]["initContainers"][0]["env"]}
    assert "HTTPS_PROXY" not in copied
    assert "EgressOfApplication" not in reasons
    made, _ = injected(given, service(credentialsSecretRef=None))
    assert "HTTPS_PROXY" in {item["name"] for item in made["spec"]["initContainers"][0]["env"]}


def test_the_application_s_own_address_gets_the_key_over_tls_only() -> None:
    """A Service of the cluster may be the application's own."""
    one = service(type="OpenAI")
    given = pod(env=[{"name": "OPENAI_BASE_URL", "value": "http://mine.shop.svc/v1"}])
    done = decide(given, [one], SETTINGS, namespace="shop", namespace_labels={}, ca_pem="CA")
    assert "BaseUrlNotAllowed" in {finding.reason for finding in done.findings}
    assert "mine.shop.svc" not in json.dumps(done.pod["spec"].get("initContainers") or [])


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ({"url": "http://engine"}, "engine.shop.svc.cluster.local"),
        ({"url": "http://engine.ml.svc:8000/base"}, "engine.ml.svc.cluster.local"),
        ({"url": "http://Engine.ml.svc.cluster.local."}, "engine.ml.svc.cluster.local"),
        ({"url": "https://engine.ml.svc"}, None),
        ({}, None),
        ({"url": "http://engine", "credentialsSecretRef": None}, None),
    ],
)
def test_a_key_without_tls_is_bound_to_the_name_of_its_service(backend: dict[str, Any], name: str | None) -> None:
    made, _ = injected(pod(), service(**backend))
    (route,) = json.loads(made["spec"]["initContainers"][0]["env"][0]["value"])["routes"]
    assert route.get("resolvesTo") == name


@pytest.mark.parametrize(
    ("path", "free"),
    [
        ("/aws", True),
        ("/home/app/.aws", True),
        ("/var/run/secrets/eks.amazonaws.com/serviceaccount", True),
        ("/etc/aws", True),
        ("/etc/ssl/certs", False),
        ("/etc/ld.so.preload", False),
        ("/aws/../etc/ssl/certs", False),
        ("/run", False),
        ("/var/run", False),
        ("/run/llmwarden/credentials", False),
        ("/var", False),
        ("/var/lib/llmwarden/x", False),
        ("/opt", False),
        ("/opt/llmwarden/app", False),
        ("/lib32", False),
        ("/", False),
    ],
)
def test_nothing_of_the_application_s_is_mounted_where_the_proxy_runs_from(*, path: str, free: bool) -> None:
    one = service(type="Bedrock", url="https://bedrock-runtime.eu-west-1.amazonaws.com", credentialsSecretRef=None)
    mount = {"name": "aws", "mountPath": path}
    file = path if path.endswith("preload") else f"{path.rstrip('/')}/config"
    given = pod(
        volumes=[{"name": "aws", "emptyDir": {}}],
        volumeMounts=[mount],
        env=[{"name": "AWS_CONFIG_FILE", "value": file}],
    )
    made, reasons = injected(given, one)
    mounted = {item["name"] for item in made["spec"]["initContainers"][0]["volumeMounts"]}
    assert ("aws" in mounted) == free
    assert ("CredentialsNotCopied" in reasons) == (not free)
