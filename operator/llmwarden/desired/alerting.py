"""One alert as a rule: whose it is, how grave, what to read. Used by `rules`, `slo` and `defaults`."""

from typing import Any, Final

from llmwarden import names
from llmwarden.desired import promql
from llmwarden.desired.manifest import dashboard_uid
from llmwarden.desired.params import Params

RUNBOOKS: Final = "docs/runbooks"
WINDOW: Final = "5m"
FEW_CALLS: Final = 5  # in WINDOW: below that, one slow call would be an alert
Rule = dict[str, Any]


def alert(
    params: Params,
    name: str,
    expr: str,
    *,
    wait: str,
    severity: str,
    summary: str,
    description: str,
    labels: dict[str, str] | None = None,
    keep: str = "",
) -> Rule:
    """Build an alerting rule. `wait` is its `for`, `keep` its `keep_firing_for`; both may be empty.

    `summary` carries the figure, in words a person acts on; `description` says what to look at. The service's namespace is a label of
    every alert: AlertmanagerConfig routes by it.
    """
    metadata = params.service.metadata
    rule: Rule = {
        "alert": name,
        "expr": expr,
        "labels": {
            **(labels or {}),
            "namespace": metadata.namespace,
            names.LABEL_M_SERVICE: metadata.name,
            "severity": severity,
        },
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook_url": f"{params.settings.runbook_base_url.rstrip('/') or RUNBOOKS}/{name}.md",
            "dashboard_url": f"{params.settings.grafana_url.rstrip('/')}/d/{dashboard_uid(metadata.namespace, metadata.name)}",
        },
    }
    if wait:
        rule["for"] = wait
    if keep:
        rule["keep_firing_for"] = keep
    return rule


def of(params: Params, *more: str) -> str:
    """Return the label matchers of the service, and more of them."""
    return promql.selector(params.service.metadata.namespace, params.service.metadata.name, *more)


def title(params: Params) -> str:
    """Return how a summary names the service."""
    return f"LLMService {params.service.key}"
