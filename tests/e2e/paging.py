"""A service whose budget refuses calls at once, and whose alerts go to a pager, a chat and a webhook: all of them the demo's receiver.

It is applied with the main job, because what it shows takes its time: Prometheus' rules, Alertmanager's `group_wait` and `group_interval`.
"""

from collections.abc import Callable
from typing import Any

from demo import steps
from demo.kube import Kube
from tests.e2e.support import deployment, llm

NAMESPACE = "paged"
SERVICE = "bot"
BUDGET = "small"
ROUTING_KEY = "e2e0key0of0thirty0two0letters000"  # of the length that PagerDuty asks for
SINK = "http://alert-sink.monitoring.svc:8080"
ENOUGH = "100.00"


def service(limit: str = "0.0004") -> dict[str, Any]:
    """Return the service with a budget of so many dollars: at gpt-4o-mini's price, the default is a dozen calls."""
    spec = {
        "backend": {
            "type": "OpenAI",
            "url": steps.PROVIDER_URL,
            "credentialsSecretRef": {"name": "keys", "key": "openai"},
        },
        "workload": {"selector": {"matchLabels": {"app": SERVICE}}},
        "budgets": [
            {
                "name": BUDGET,
                "limit": {"amount": limit},
                "window": {"calendar": "Day"},
                "warnAtPercent": [50],
                "onExceeded": {"action": "Block"},
                # Other tests take the ledger away: what is spent stays between the warning and the end until the limit is raised.
                "onLedgerLoss": "Deny",
            }
        ],
        "objectives": [
            # Short: its windows, and so its alert, are minutes.
            {"name": "errors", "errors": {}, "targetPercent": "95", "window": "1d"},
            {"name": "context", "contextUse": {"thresholdPercent": 50}, "targetPercent": "95", "window": "28d"},
        ],
        "alerts": {
            "pagerDuty": {
                "routingKeySecretRef": {"name": "keys", "key": "pagerduty"},
                "url": f"{SINK}/v2/enqueue",
            },
            "slack": {"urlSecretRef": {"name": "keys", "key": "slack"}, "channel": "#llm"},
            "webhook": {"urlSecretRef": {"name": "keys", "key": "webhook"}},
        },
    }
    return llm(NAMESPACE, SERVICE, spec)


def apply(kube: Kube) -> None:
    """Apply namespace, Secret and service; the application is `apply_application`'s."""
    keys = {
        "openai": "sk-demo-only-the-proxy-has-this",
        "pagerduty": ROUTING_KEY,
        "slack": f"{SINK}/services/T0/B0/secret",
        "webhook": f"{SINK}/",
    }
    kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "keys", "namespace": NAMESPACE},
            "stringData": keys,
        },
        service(),
    )


def apply_application(kube: Kube) -> None:
    """Apply what calls, and is refused every three seconds when the budget is spent. The webhook must be asked about the namespace by now."""
    env = {"MODEL": "gpt-4o-mini", "RATE": "4", "MAX_TOKENS": "140", "REFUSED_PAUSE": "3"}
    kube.apply(deployment(NAMESPACE, SERVICE, program="client.py", env=env))


def events(kube: Kube, name: str) -> list[dict[str, Any]]:
    """Return the events of our key that the pager took about alerts of this name, oldest first."""
    came = kube.read(steps.MONITORING, "alert-sink", "http", "/events")
    return [item for item in came if item["routing_key"] == ROUTING_KEY and item["payload"]["class"] == name]


def alerts(kube: Kube) -> list[dict[str, Any]]:
    """Return what Alertmanager holds of the service's alerts: labels, and whether they are inhibited."""
    path = f"/api/v2/alerts?filter=namespace%3D%22{NAMESPACE}%22"
    found: list[dict[str, Any]] = kube.read(steps.MONITORING, "alertmanager-operated", "web", path)
    return found


def wait_for(kube: Kube, what: str, find: Callable[[], Any], seconds: float = 150) -> Any:
    """Poll until something is found; returns it."""
    found: Any = None

    def check() -> str:
        nonlocal found
        found = find()
        return "" if found else "nothing came"

    kube.wait(what, check, seconds, lambda: f"{alerts(kube)}\n{steps.rule_states(kube)}\n{kube.trouble(NAMESPACE)}")
    return found
