"""The ledger as a process against a real API server: real watches, real TokenReviews of tokens bound to real pods, TLS."""

import asyncio
import datetime as dt
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from llmwarden import names
from llmwarden.serving import pki
from tests.api.support import ControlPlane
from tests.ledger.billing import KEY, Billing
from tests.ports import free_port

T = TypeVar("T")
DOLLAR = 10**12


def until(check: Callable[[], T], seconds: float = 30.0) -> T:
    """Return what `check` gives once it gives something; fails after so long."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        if time.monotonic() > deadline:
            pytest.fail(f"not so within {seconds} s; last: {found!r}")
        time.sleep(0.05)
    return found


@dataclass
class Ledger:
    """One ledger process and how it is reached: `host` is the name in its certificate."""

    plane: ControlPlane
    namespace: str
    port: int
    metrics_port: int
    database: Path
    log: Path
    ca: str
    process: "subprocess.Popen[bytes] | None" = None
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return f"{names.LEDGER}.{self.namespace}.svc"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "llmwarden",
                    "ledger",
                    "--port",
                    str(self.port),
                    "--metrics-port",
                    str(self.metrics_port),
                ],
                env={
                    **os.environ,
                    "PYTHONPATH": "operator",
                    "KUBECONFIG": str(self.plane.kubeconfig),
                    "LLMWARDEN_NAMESPACE": self.namespace,
                    "LLMWARDEN_DATABASE_PATH": str(self.database),
                    **self.environ,
                },
                cwd=Path(__file__).parents[2],
                stdout=log,
                stderr=log,
            )

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"the ledger has ended:\n{self.log.read_text()}")
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{self.metrics_port}/readyz").status_code == 200
        return False

    def call(self, method: str, path: str, token: str, *, body: Any = None, **query: str) -> httpx.Response:
        context = ssl.create_default_context(cadata=self.ca)
        with httpx.Client(verify=context, timeout=40, trust_env=False) as client:
            return client.request(
                method,
                f"https://127.0.0.1:{self.port}{path}",
                params=None if body else {"contract": "1", **query},
                json=body,
                headers={"Authorization": f"Bearer {token}", "Host": self.host},
                extensions={"sni_hostname": self.host},
            )

    def config(self, token: str, **query: str) -> httpx.Response:
        return self.call("GET", "/v1/config", token, services="bot", **query)


@pytest.fixture
def ledger(blank: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Ledger]:
    crds = blank
    secrets = pki.secrets_wanted({}, dt.datetime.now(dt.UTC), namespace)
    for secret in secrets:
        crds.http.post(f"/api/v1/namespaces/{namespace}/secrets", json=secret).raise_for_status()
    ca = pki.ca_bundle(secrets[0])
    assert ca
    made = Ledger(
        crds, namespace, free_port(), free_port(), tmp_path / "data" / "ledger.sqlite3", tmp_path / "ledger.log", ca,
        environ={"SSL_CERT_FILE": str(tmp_path / "authority")},  # for the providers' billing APIs
    )  # fmt: skip
    (tmp_path / "authority").write_text(ca)
    made.start()
    try:
        until(made.ready)
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def pod(plane: ControlPlane, namespace: str, name: str) -> dict[str, str]:
    """Make a pod that nothing runs, as the webhook leaves one that was injected for `bot`; returns its reference."""
    until(lambda: plane.http.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/default").is_success)
    made = plane.http.post(
        f"/api/v1/namespaces/{namespace}/pods",
        json={
            "metadata": {
                "name": name,
                "labels": {names.LABEL_PROXY: "true"},
                "annotations": {names.ANNOTATION_SERVICES: "bot"},
            },
            "spec": {"nodeName": "nowhere", "containers": [{"name": "app", "image": "example.invalid/app"}]},
        },
    )
    made.raise_for_status()
    return {"namespace": namespace, "name": name, "uid": made.json()["metadata"]["uid"]}


def token(plane: ControlPlane, reference: dict[str, str], audience: str = names.TOKEN_AUDIENCE) -> str:
    """Return a token as the kubelet would project it."""
    return plane.kubectl(
        "create", "token", "default", "--namespace", reference["namespace"], "--audience", audience,
        "--bound-object-kind", "Pod", "--bound-object-name", reference["name"], "--bound-object-uid", reference["uid"],
    ).strip()  # fmt: skip


def service(namespace: str, amount: str = "1.00", zone: str = "UTC") -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "LLMService",
        "metadata": {"name": "bot", "namespace": namespace, "labels": {"team": "support"}},
        "spec": {
            "backend": {"type": "OpenAI"},
            "workload": {"selector": {"matchLabels": {"app": "bot"}}},
            "budgets": [
                {
                    "name": "daily",
                    "limit": {"amount": amount},
                    "window": {"calendar": "Day", "timeZone": zone},
                    "onExceeded": {"action": "Block"},
                }
            ],
        },
    }


def apply(plane: ControlPlane, *objects: dict[str, Any]) -> None:
    plane.kubectl("apply", "--server-side", "-f", "-", given="\n---\n".join(json.dumps(item) for item in objects))


def report(reference: dict[str, str], requests: int, **changes: Any) -> dict[str, Any]:
    row = {
        "service": "bot",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "priceId": None,
        "bucket": int(time.time()) // 900 * 900,
        "requests": requests,
        "errors": 0,
        "tokens": {"input": 1_000_000 * requests, "output": 0},
    }
    return {
        "contract": 1,
        "journal": "j",
        "sequence": requests,
        "pod": reference,
        "rows": [{**row, **changes}],
    }


def test_a_proxys_life_with_the_ledger(ledger: Ledger) -> None:
    plane, namespace = ledger.plane, ledger.namespace
    reference = pod(plane, namespace, "bot-0")
    mine = token(plane, reference)
    key = f"LLMService/{namespace}/bot/daily"
    # Before there is an LLMService, the proxy passes everything through.
    assert ledger.config(mine).json()["services"]["bot"]["state"] == "Released"

    with ThreadPoolExecutor() as pool:
        generation = ledger.config(mine).json()["generation"]
        poll = pool.submit(ledger.config, mine, generation=generation, wait="35")
        begin = time.monotonic()
        apply(plane, service(namespace))
        config = poll.result().json()
        assert time.monotonic() - begin < 30  # the change, not the end of the wait
        assert config["services"]["bot"]["state"] == "Active"
        assert config["budgets"][key]["state"] == "Open"

        price = ledger.call("GET", "/v1/price", mine, service="bot", model="gpt-4o-mini").json()
        assert price["picodollars"]["input"] == 150_000
        poll = pool.submit(ledger.config, mine, generation=config["generation"], wait="25")
        answer = ledger.call("POST", "/v1/report", mine, body=report(reference, 7, priceId=price["priceId"])).json()
        # Seven million input tokens at 0.15 dollars a million.
        assert answer["budgets"][key] == {**answer["budgets"][key], "spent": 7 * 150_000 * 10**6, "state": "Exceeded"}
        assert poll.result().json()["budgets"][key]["state"] == "Exceeded"

    # Another team's pod, another audience, another pod of the namespace.
    other = pod(plane, namespace, "bot-1")
    assert ledger.call("POST", "/v1/report", token(plane, other), body=report(reference, 9)).status_code == 403
    wrong = token(plane, reference, audience="somebody-else")
    assert ledger.call("POST", "/v1/report", wrong, body=report(reference, 9)).status_code == 401
    assert ledger.call("GET", "/v1/usage", mine).status_code == 403
    # A pod that is gone has no good token any more.
    gone = token(plane, other)
    plane.kubectl("delete", "pod", "bot-1", "--namespace", namespace, "--force", "--grace-period=0", "--wait=true")
    assert ledger.config(gone).status_code == 401

    # Killed and started again: nothing is lost, and nothing is released meanwhile.
    assert ledger.end(signal.SIGKILL) == -signal.SIGKILL
    ledger.start()
    until(ledger.ready)
    config = ledger.config(mine).json()
    assert config["services"]["bot"]["state"] == "Active"
    assert config["budgets"][key]["spent"] == 7 * 150_000 * 10**6
    assert config["generation"] == answer["generation"]

    # The operator reads everything.
    plane.kubectl("create", "serviceaccount", names.OPERATOR, "--namespace", namespace)
    operator = plane.kubectl(
        "create", "token", names.OPERATOR, "--namespace", namespace, "--audience", names.TOKEN_AUDIENCE
    ).strip()
    usage = ledger.call("GET", "/v1/usage", operator).json()
    assert usage["services"][f"{namespace}/bot"]["total"]["requests"] == 7
    assert usage["budgets"][key]["topServices"] == [{"service": f"{namespace}/bot", "spent": 7 * 150_000 * 10**6}]

    # Deleted: its own budgets are gone with it, and our key is not for its pods any more, at once.
    with ThreadPoolExecutor() as pool:
        poll = pool.submit(ledger.config, mine, generation=config["generation"], wait="25")
        plane.kubectl("delete", "llmservice", "bot", "--namespace", namespace)
        told = poll.result().json()["services"]["bot"]
        assert (told["state"], told["departed"], told["budgets"]) == ("Active", True, [])
    assert ledger.end() == 0


def test_shared_budgets_prices_and_labels_of_namespaces_reach_the_proxy(ledger: Ledger) -> None:
    plane, namespace = ledger.plane, ledger.namespace
    mine = token(plane, pod(plane, namespace, "bot-0"))
    policy: dict[str, Any] = {"limit": {"amount": "5.00"}, "window": {"calendar": "Month"}}
    team = {
        "apiVersion": names.API_VERSION,
        "kind": "LLMBudget",
        "metadata": {"name": "support", "namespace": namespace},
        "spec": {**policy, "selector": {"matchLabels": {"team": "support"}}},
    }
    platform = {
        "apiVersion": names.API_VERSION,
        "kind": "ClusterLLMBudget",
        "metadata": {"name": namespace},
        "spec": {**policy, "namespaceSelector": {"matchLabels": {"test": namespace}}},
    }
    price = {
        "apiVersion": names.API_VERSION,
        "kind": "ModelPrice",
        "metadata": {"name": namespace},
        "spec": {
            "provider": "OpenAI",
            "models": [namespace],
            "prices": [
                {"from": "2026-01-01T00:00:00Z", "inputPerMillionTokens": "0.12", "outputPerMillionTokens": "0.48"}
            ],
        },
    }
    # A zone that nobody knows: that budget is left out, everything else goes on.
    apply(plane, service(namespace, zone="Moon/Tranquility"), team, platform, price)
    plane.kubectl("label", "namespace", namespace, f"test={namespace}")
    expected = {f"LLMBudget/{namespace}/support", f"ClusterLLMBudget/{namespace}"}
    try:
        until(lambda: set(ledger.config(mine).json()["budgets"]) == expected)
        found = ledger.call("GET", "/v1/price", mine, service="bot", model=namespace).json()
        assert found["picodollars"]["output"] == 480_000
        metrics = httpx.get(f"http://127.0.0.1:{ledger.metrics_port}/metrics").text
        assert (
            f'llmwarden_budget_used_ratio{{budget="support",kind="LLMBudget",llmservice="bot",namespace="{namespace}"}} 0.0'
            in metrics
        )
        assert "Moon/Tranquility" in ledger.log.read_text()
    finally:
        plane.kubectl("delete", "clusterllmbudget,modelprice", namespace)


def test_spend_is_shown_to_who_may_list_the_services(ledger: Ledger) -> None:
    plane, namespace = ledger.plane, ledger.namespace
    apply(plane, service(namespace))
    bot = pod(plane, namespace, "bot-0")
    until(lambda: ledger.config(token(plane, bot)).is_success)
    sent = ledger.call("POST", "/v1/report", token(plane, bot), body=report(bot, 3))
    assert sent.json()["accepted"] == 1
    plane.kubectl("create", "serviceaccount", "reader", "-n", namespace)
    reader = plane.kubectl("create", "token", "reader", "-n", namespace, "--audience", names.TOKEN_AUDIENCE).strip()
    refused = ledger.call("GET", "/v1/spend", reader, namespace=namespace)
    assert refused.status_code == 403
    assert "kubectl create rolebinding" in refused.json()["error"]["message"]
    plane.kubectl("create", "role", "reader", "-n", namespace, "--verb=list", f"--resource=llmservices.{names.GROUP}")
    plane.kubectl(
        "create", "rolebinding", "reader", "-n", namespace, "--role=reader", f"--serviceaccount={namespace}:reader"
    )

    def shown() -> list[dict[str, Any]]:
        answer = ledger.call("GET", "/v1/spend", reader, namespace=namespace, **{"from": "2d"})
        return list(answer.json()["rows"]) if answer.is_success else []

    (row,) = until(shown)
    assert (row["by"]["service"], row["requests"]) == (f"{namespace}/bot", 3)
    # Its own namespace only, and no token for anything else.
    assert ledger.call("GET", "/v1/spend", reader).status_code == 403
    assert (
        ledger.call("GET", "/v1/spend", plane.kubectl("create", "token", "reader", "-n", namespace).strip()).status_code
        == 401
    )


def test_long_polls_do_not_hold_up_the_end(ledger: Ledger) -> None:
    mine = token(ledger.plane, pod(ledger.plane, ledger.namespace, "bot-0"))
    generation = ledger.config(mine).json()["generation"]
    with ThreadPoolExecutor() as pool:
        polls = [pool.submit(ledger.config, mine, generation=generation, wait="60") for _ in range(3)]
        metrics = f"http://127.0.0.1:{ledger.metrics_port}/metrics"
        until(lambda: "llmwarden_ledger_long_polls 3.0" in httpx.get(metrics).text)
        assert ledger.end() == 0  # within seconds, where their wait is a minute
        assert [poll.result().status_code for poll in polls] == [304] * 3


def test_a_second_ledger_on_the_same_database_ends_with_a_sentence(ledger: Ledger, tmp_path: Path) -> None:
    second = Ledger(
        ledger.plane, ledger.namespace, free_port(), free_port(), ledger.database, tmp_path / "second.log", ledger.ca
    )
    second.start()
    assert second.process is not None
    assert second.process.wait(20) == 1
    assert "another ledger has it open" in second.log.read_text()


@contextmanager
def provider(ledger: Ledger) -> Iterator[Billing]:
    """The simulated billing API over TLS, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    billing = Billing()
    authority = pki.make_ca(dt.datetime.now(dt.UTC))
    leaf = pki.make_leaf(authority, ["localhost"], dt.datetime.now(dt.UTC))
    folder = ledger.log.parent
    (folder / "authority").write_text(authority.certificate)
    for name, text in (("leaf", leaf.certificate), ("leaf-key", leaf.key)):
        (folder / name).write_text(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf", folder / "leaf-key")
    asyncio.run_coroutine_threadsafe(billing.server.start(context), loop).result(10)
    try:
        yield billing
    finally:
        asyncio.run_coroutine_threadsafe(billing.server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def operator_token(plane: ControlPlane, namespace: str) -> str:
    """The token of the operator's account, which may read everything."""
    plane.run_kubectl("create", "serviceaccount", names.OPERATOR, "--namespace", namespace)
    return plane.kubectl(
        "create", "token", names.OPERATOR, "--namespace", namespace, "--audience", names.TOKEN_AUDIENCE
    ).strip()


def test_a_provider_account_is_read_with_the_key_of_the_secret_beside_the_ledger(ledger: Ledger) -> None:
    """A real kind, a real Secret, TLS; the provider is a simulator (tests/ledger/billing.py), and the key is in no log."""
    plane = ledger.plane
    account = {
        "apiVersion": "llmwarden.io/v1alpha1",
        "kind": "ProviderAccount",
        "metadata": {"name": "openai"},
        "spec": {"provider": "OpenAI", "adminKey": "openai"},
    }
    with provider(ledger) as billing:
        assert ledger.end() == 0
        ledger.start()  # anew: it trusts the authority that there is now
        until(ledger.ready)
        account["spec"] = {**account["spec"], "baseUrl": f"https://localhost:{billing.server.port}"}  # type: ignore[dict-item]
        plane.kubectl("apply", "-f", "-", given=json.dumps(account))
        operator = operator_token(plane, ledger.namespace)

        def found() -> Any:
            answer = ledger.call("GET", "/v1/reconciliation", operator)
            assert answer.status_code == 200, answer.text
            return answer.json()["accounts"].get("openai")

        missing = until(lambda: (one := found()) and one.get("fault") and one)
        assert missing["fault"]["reason"] == "KeyMissing"
        assert billing.asked == []
        plane.kubectl(
            "create", "secret", "generic", names.SECRET_PROVIDER_KEYS, "-n", ledger.namespace, f"--from-literal=openai={KEY}"
        )  # fmt: skip
        # Of another project it is another account, asked at once; the first waits for its turn.
        plane.kubectl("delete", "provideraccount", "openai")
        account["spec"] = {**account["spec"], "projects": ["proj_a"]}  # type: ignore[dict-item]
        plane.kubectl("apply", "-f", "-", given=json.dumps(account))
        read = until(lambda: (one := found()) and one.get("readAt") and one)
        assert read["fault"] is None
        assert len(billing.asked) == 3
        plane.kubectl("delete", "provideraccount", "openai")
        until(lambda: found() is None)
    assert KEY not in ledger.log.read_text()
