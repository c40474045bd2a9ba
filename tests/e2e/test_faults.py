"""What goes wrong in a cluster, and that applications do not pay for it."""

import uuid
from collections.abc import Iterator

import pytest

from cluster.errors import ClusterError
from demo.kube import Kube, condition
from tests.e2e.support import Stage, deployment, env_spec, llm, port_spec, proxy_of, service, stage

SYSTEM = "llmwarden-system"
URL = "http://openai-simulator.providers.svc"
CLIENT = {"OPENAI_API_KEY": "dummy", "MODEL": "gpt-4o-mini", "RATE": "5"}
CALLS = 150  # of the application that outlives the ledger


def answered(stage: Stage, app: str, status: int) -> int:
    """Return how many calls of an application were answered with this status; 0 while it does not listen yet."""
    try:
        return int(stage.figures(app)["requests"].get(str(status), 0))
    except ClusterError:
        return 0


def served(stage: Stage, app: str) -> int:
    """Return how many calls of an application were served."""
    return answered(stage, app, 200)


def grows(stage: Stage, app: str, seconds: float = 60, status: int = 200) -> None:
    """Wait until more calls are answered with this status than now."""
    before = answered(stage, app, status)
    stage.kube.wait(
        f"{app} is answered {status}",
        lambda: "" if answered(stage, app, status) > before + 3 else f"{before} answers",
        seconds,
    )


def key(namespace: str) -> dict[str, object]:
    """Return the Secret with the key of the simulated provider."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "openai", "namespace": namespace},
        "stringData": {"api-key": "sk-demo-only-the-proxy-has-this"},
    }


@pytest.fixture
def trusted(fresh: Stage) -> Stage:
    """A namespace with the key of the simulated provider, which its proxies need."""
    fresh.apply(key(fresh.namespace))
    return fresh


def keyed(app: str) -> dict[str, object]:
    """Return the spec of a service whose proxy holds the key."""
    return env_spec(app, URL) | {
        "backend": {"type": "OpenAI", "url": URL, "credentialsSecretRef": {"name": "openai", "key": "api-key"}}
    }


def test_deleting_the_resource_takes_what_it_owns_and_our_key_and_the_pods_keep_calling(trusted: Stage) -> None:
    ns = trusted.namespace
    trusted.apply(llm(ns, "bot", keyed("bot")))
    trusted.wait_injecting()
    trusted.apply(deployment(ns, "bot", program="client.py", env=CLIENT))
    trusted.rollout("bot")
    grows(trusted, "bot")
    owned = ("prometheusrule", "configmap")
    labelled = "app.kubernetes.io/managed-by=llmwarden"
    trusted.kube.wait(
        "children",
        lambda: "" if all(trusted.kube.items(kind, ns, labelled) for kind in owned) else "not all are there",
        60,
    )
    # Also while the operator is down: garbage collection needs nobody.
    trusted.kube.run("-n", SYSTEM, "scale", "deployment", "llmwarden-operator", "--replicas=0")
    try:
        trusted.kube.run("-n", ns, "delete", "llmservice", "bot", "--timeout=20s")
        trusted.kube.wait(
            "garbage collection",
            lambda: "children are left" if any(trusted.kube.items(kind, ns, labelled) for kind in owned) else "",
            60,
        )
        # The provider refuses the application's own key, which only says that it is one.
        grows(trusted, "bot", status=401)
    finally:
        trusted.kube.run("-n", SYSTEM, "scale", "deployment", "llmwarden-operator", "--replicas=1")
        trusted.kube.wait_rolled_out("deployment", "llmwarden-operator", SYSTEM, 90)
    grows(trusted, "bot", status=401)
    # A service of the same name takes the pods up again.
    trusted.apply(llm(ns, "bot", keyed("bot")))
    grows(trusted, "bot")


def test_a_namespace_deleted_while_reconciling_hangs_nothing(trusted: Stage) -> None:
    ns = trusted.namespace
    trusted.apply(*[llm(ns, f"bot-{number}", keyed(f"bot-{number}")) for number in range(5)])
    trusted.kube.run("delete", "namespace", ns, "--wait=true", "--timeout=90s")
    assert not trusted.kube.get("namespace", ns)
    pods = trusted.kube.pods(SYSTEM, "app.kubernetes.io/component=operator")
    assert all(state["ready"] for pod in pods for state in pod["status"]["containerStatuses"])


def test_an_operator_killed_while_reconciling_finishes_when_it_is_back(trusted: Stage) -> None:
    ns = trusted.namespace
    trusted.apply(*[llm(ns, f"bot-{number}", keyed(f"bot-{number}")) for number in range(5)])
    trusted.kube.run(
        "-n", SYSTEM, "delete", "pod", "-l", "app.kubernetes.io/component=operator", "--force", "--grace-period=0"
    )
    for number in range(5):
        trusted.wait_condition(f"bot-{number}", "AlertsReady", "True")


def test_an_image_that_cannot_be_pulled_stops_injection_and_the_application_starts(trusted: Stage) -> None:
    ns, kube = trusted.namespace, trusted.kube
    # With less patience than the default minute: what is tested is what comes after it.
    _set(kube, "LLMWARDEN_IMAGE=registry.invalid/llmwarden:missing", "LLMWARDEN_INJECTION_STUCK_SECONDS=15")
    try:
        trusted.apply(llm(ns, "bot", keyed("bot")))
        trusted.wait_injecting()
        # Without a key of its own at the simulator the application is refused, but it runs: that is what counts.
        trusted.apply(deployment(ns, "bot", program="client.py", env=CLIENT | {"OPENAI_BASE_URL": f"{URL}/v1"}))
        pod = trusted.rollout("bot", seconds=240)
        assert not proxy_of(pod)
        found = trusted.llm("bot")["status"]
        assert found["injection"]["state"] == "Stopped"
        assert condition(trusted.llm("bot"), "Instrumented")["status"] == "False"
    finally:
        _set(kube, "LLMWARDEN_IMAGE-", "LLMWARDEN_INJECTION_STUCK_SECONDS-")
    # With an image that can be had, injection goes on by itself.
    trusted.kube.wait(
        "injection is active again",
        lambda: (
            ""
            if trusted.llm("bot")["status"].get("injection", {}).get("state", "Active") == "Active"
            else "it is stopped"
        ),
        120,
    )


def _set(kube: Kube, *variables: str) -> None:
    """Set variables (`NAME=VALUE`) of webhook and operator over those of the installation, or take them away (`NAME-`)."""
    for role in ("webhook", "operator"):
        kube.run("-n", SYSTEM, "set", "env", f"deployment/llmwarden-{role}", *variables)
    for role in ("webhook", "operator"):
        kube.wait_rolled_out("deployment", f"llmwarden-{role}", SYSTEM, 120)


def _pods_left(kube: Kube, role: str) -> str:
    # Those that are on their way out still answer.
    return "pods are left" if kube.items("pods", SYSTEM, f"app.kubernetes.io/component={role}") else ""


def test_a_webhook_that_is_down_never_stops_a_pod(trusted: Stage) -> None:
    ns = trusted.namespace
    trusted.apply(llm(ns, "bot", keyed("bot")))
    trusted.wait_injecting()
    trusted.kube.run("-n", SYSTEM, "scale", "deployment", "llmwarden-webhook", "--replicas=0")
    try:
        trusted.kube.wait(
            "the webhook is gone",
            lambda: _pods_left(trusted.kube, "webhook"),
            60,
        )
        trusted.apply(deployment(ns, "bot", program="client.py", env=CLIENT))
        assert not proxy_of(trusted.rollout("bot"))
        trusted.wait_condition("bot", "Instrumented", "False")
    finally:
        trusted.kube.run("-n", SYSTEM, "scale", "deployment", "llmwarden-webhook", "--replicas=2")
        trusted.kube.wait_rolled_out("deployment", "llmwarden-webhook", SYSTEM, 90)


@pytest.fixture(scope="module")
def outage(main_job: Kube) -> Iterator[Stage]:
    """Yield a namespace in which an application made all of its calls while the ledger went away; the ledger is back."""
    with stage(main_job, f"e2e-{uuid.uuid4().hex[:8]}") as made:
        ns, kube = made.namespace, made.kube
        made.apply(key(ns), llm(ns, "bot", keyed("bot")))
        made.wait_injecting()
        made.apply(deployment(ns, "bot", program="client.py", env=CLIENT | {"CALLS": str(CALLS)}))
        made.rollout("bot")
        grows(made, "bot")
        kube.run("-n", SYSTEM, "scale", "deployment", "llmwarden-ledger", "--replicas=0")
        try:
            kube.wait("the ledger is gone", lambda: _pods_left(kube, "ledger"), 60)
            assert served(made, "bot") < CALLS, "the ledger was there to the end"
            kube.wait(
                "every call is answered without the ledger",
                lambda: "" if served(made, "bot") == CALLS else f"{served(made, 'bot')} of {CALLS}",
                90,
            )
        finally:
            kube.run("-n", SYSTEM, "scale", "deployment", "llmwarden-ledger", "--replicas=1")
            kube.wait_rolled_out("deployment", "llmwarden-ledger", SYSTEM, 90)
        yield made


def test_a_ledger_that_is_down_never_stops_a_call(outage: Stage) -> None:
    assert outage.figures("bot")["requests"] == {"200": CALLS}


def test_a_price_that_is_missing_is_uncosted_and_never_nothing(trusted: Stage) -> None:
    ns = trusted.namespace
    trusted.apply(
        llm(ns, "engine", port_spec("engine")),
        service(ns, "engine", "http"),
    )
    trusted.wait_injecting()
    trusted.apply(
        deployment(
            ns,
            "engine",
            env={"MODELS": "nobody-has-priced-this"},
            container={"ports": [{"name": "http", "containerPort": 8000}]},
        ),
        deployment(
            ns,
            "caller",
            program="client.py",
            env=CLIENT | {"MODEL": "nobody-has-priced-this", "OPENAI_BASE_URL": f"http://engine.{ns}.svc/v1"},
        ),
    )
    trusted.rollout("engine")
    trusted.rollout("caller")

    def uncosted() -> str:
        usage = trusted.llm("engine").get("status", {}).get("usage", {})
        return "" if usage.get("uncostedTokens", 0) > 0 else f"usage is {usage}"

    trusted.kube.wait("uncosted tokens", uncosted, 150)
    said = trusted.wait_condition("engine", "CostKnown", "False")
    assert "nobody-has-priced-this" in said["message"]
    spent = trusted.llm("engine")["status"].get("summary", {}).get("spent", "")
    assert not spent.startswith("$0"), spent


def test_nothing_secret_is_in_any_log_or_status(main_job: Kube) -> None:
    kube = main_job
    secret = "sk-demo-only-the-proxy-has-this"
    for pod in kube.pods("shop", "llmwarden.io/proxy=true"):
        name = pod["metadata"]["name"]
        assert secret not in kube.run("-n", "shop", "logs", name, "-c", "llmwarden-proxy")
        assert secret not in str(pod["spec"])
        with pytest.raises(ClusterError):
            # The application's container does not see the file.
            kube.run(
                "-n", "shop", "exec", name, "-c", "app", "--",
                "cat", "/var/run/llmwarden/credentials/support-bot/key",
            )  # fmt: skip
    for role in ("operator", "webhook", "ledger"):
        for pod in kube.pods(SYSTEM, f"app.kubernetes.io/component={role}"):
            assert secret not in kube.run("-n", SYSTEM, "logs", pod["metadata"]["name"])
    assert secret not in kube.run("get", "llmservices", "-A", "-o", "json")


def test_calls_made_without_the_ledger_are_counted_to_the_last_token(outage: Stage) -> None:
    # Here, at the end: a status whose figures alone have changed is written once a minute.
    own = outage.figures("bot")["tokens"]

    def exact() -> str:
        tokens = outage.llm("bot")["status"].get("usage", {}).get("tokens", {})
        same = {kind: tokens.get(kind) for kind in own} == own
        return "" if same else f"the application counted {own}, the status says {tokens}"

    outage.kube.wait("the status says to the last token what the application counted", exact, 150)
