"""What is created: services in the shapes of the examples, half an application that calls a provider, half a model on vLLM."""

from typing import Any, Final

from llmwarden import names

Object = dict[str, Any]
PROVIDER: Final = "provider"
ENGINE: Final = "engine"
PATH: Final = f"/apis/{names.API_VERSION}/namespaces/{{}}/llmservices"
TEAM: Final = "support"
COST_CENTER: Final = "retail"


def namespace(number: int) -> str:
    """The name of a namespace."""
    return f"bench-{number:04d}"


def place(number: int, namespaces: int) -> tuple[str, str]:
    """Namespace and name of a service."""
    return namespace(number % namespaces), f"{'bot' if shape(number) == PROVIDER else 'chat'}-{number:05d}"


def shape(number: int) -> str:
    """PROVIDER or ENGINE. In turns of two: then every namespace has both, however many namespaces there are."""
    return PROVIDER if number // 2 % 2 == 0 else ENGINE


def manifest(number: int, namespaces: int) -> Object:
    """A service as a person writes it."""
    where, name = place(number, namespaces)
    provider = shape(number) == PROVIDER
    return {
        "apiVersion": names.API_VERSION,
        "kind": "LLMService",
        "metadata": {"name": name, "namespace": where, "labels": {"team": TEAM if provider else "models"}},
        "spec": _provider(name) if provider else _engine(name),
    }


def objectives(number: int, percent: str) -> list[Object]:
    """A service's objectives, the first of them for `percent` of all calls: the field that an edit changes."""
    spec = _provider("x") if shape(number) == PROVIDER else _engine("x")
    first, *others = spec["objectives"]
    return [{**first, "targetPercent": percent}, *others]


def shared(namespaces: int) -> list[Object]:
    """An LLMBudget in each namespace, a ClusterLLMBudget over half of the namespaces, a ModelPrice."""
    budgets = [
        {
            "apiVersion": names.API_VERSION,
            "kind": "LLMBudget",
            "metadata": {"name": TEAM, "namespace": namespace(number)},
            "spec": {
                "selector": {"matchLabels": {"team": TEAM}},
                "limit": {"amount": "1000000.00"},
                "window": {"calendar": "Month"},
                "warnAtPercent": [80, 95],
                "onExceeded": {"action": "Alert"},
            },
        }
        for number in range(namespaces)
    ]
    return [
        *budgets,
        {
            "apiVersion": names.API_VERSION,
            "kind": "ClusterLLMBudget",
            "metadata": {"name": COST_CENTER},
            "spec": {
                "namespaceSelector": {"matchLabels": {"cost-center": COST_CENTER}},
                "limit": {"amount": "50000000.00"},
                "window": {"calendar": "Month"},
                "onExceeded": {"action": "Block"},
            },
        },
        {
            "apiVersion": names.API_VERSION,
            "kind": "ModelPrice",
            "metadata": {"name": "gpt-4o-mini-contract"},
            "spec": {
                "provider": "OpenAI",
                "models": ["gpt-4o-mini"],
                "prices": [
                    {
                        "from": "2026-01-01T00:00:00Z",
                        "inputPerMillionTokens": "0.12",
                        "cachedInputPerMillionTokens": "0.06",
                        "outputPerMillionTokens": "0.48",
                    }
                ],
            },
        },
    ]


def pod(service: int, namespaces: int, number: int) -> Object:
    """A pod of a service. It stays pending: there is no node."""
    where, name = place(service, namespaces)
    ports = [] if shape(service) == PROVIDER else [{"name": "http", "containerPort": 8000}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-{number}", "namespace": where, "labels": {"app": name}},
        "spec": {"containers": [{"name": "app", "image": "app", "ports": ports}]},
    }


def _provider(name: str) -> Object:
    return {
        "backend": {
            "type": "OpenAI",
            "url": "https://api.openai.com",
            "credentialsSecretRef": {"name": "openai", "key": "api-key"},
        },
        "workload": {
            "selector": {"matchLabels": {"app": name}},
            "interception": {"type": "Env"},
            "rollout": "None",
        },
        "budgets": [
            {
                "name": "daily",
                "limit": {"amount": "2500.00", "currency": "USD"},
                "window": {"calendar": "Day", "timeZone": "Asia/Seoul"},
                "warnAtPercent": [50, 80],
                "onExceeded": {"action": "Block"},
                "onUnknownPrice": "Deny",
                "onLedgerLoss": "Allow",
            },
            {
                "name": "monthly",
                "limit": {"amount": "40000.00"},
                "window": {"calendar": "Month"},
                "onExceeded": {"action": "Fallback", "model": "gpt-4o-mini", "ceiling": {"amount": "44000.00"}},
            },
        ],
        "objectives": [
            _latency("first-token", "TimeToFirstToken", "1s", "99", "28d"),
            _latency("latency", "RequestDuration", "10s", "95", "28d"),
            {"name": "errors", "errors": {}, "targetPercent": "95", "window": "28d"},
            {"name": "spend-rate", "spend": {"perHour": "50.00"}},
        ],
        "alerts": {"pagerDuty": {"routingKeySecretRef": {"name": "pagerduty", "key": "routing-key"}}},
        "tracing": {"samplePercent": 100, "captureContent": False},
    }


def _engine(name: str) -> Object:
    return {
        "backend": {"type": "VLLM"},
        "workload": {
            "selector": {"matchLabels": {"app": name}},
            "interception": {"type": "Port", "port": {"name": "http"}},
        },
        "budgets": [
            {
                "name": "tokens",
                "limit": {"tokens": 50_000_000_000},
                "window": {"calendar": "Day"},
                "onExceeded": {"action": "Throttle"},
            }
        ],
        "objectives": [
            _latency("first-token", "TimeToFirstToken", "500ms", "99", "7d"),
            _latency("per-token", "TimePerOutputToken", "50ms", "95", "7d"),
        ],
        "gpu": {"exporter": "Auto"},
    }


def _latency(name: str, indicator: str, threshold: str, percent: str, window: str) -> Object:
    latency = {"indicator": indicator, "threshold": threshold}
    return {"name": name, "latency": latency, "targetPercent": percent, "window": window}
