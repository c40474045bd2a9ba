"""LLMServices as the webhook takes them."""

from typing import Any

from llmwarden import names
from llmwarden.webhook.services import Services, brief

SERVICE: dict[str, Any] = {
    "apiVersion": names.API_VERSION,
    "kind": "LLMService",
    "metadata": {"name": "bot", "namespace": "shop"},
    "spec": {"backend": {"type": "OpenAI"}, "workload": {"selector": {"matchLabels": {"app": "bot"}}}},
}


def service(name: str, namespace: str = "shop", spec: dict[str, Any] | None = None, **selector: Any) -> dict[str, Any]:
    """An LLMService; without a selector it selects what has its name as `app`."""
    workload = {"selector": selector or {"matchLabels": {"app": name}}}
    return {
        **SERVICE,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**SERVICE["spec"], "workload": workload, **(spec or {})},
    }


def known(*items: dict[str, Any]) -> Services:
    """What the webhook has after the informer has told it of these."""
    made = Services()
    for item in items:
        made.take((item["metadata"]["namespace"], item["metadata"]["name"]), None, brief(item))
    return made
