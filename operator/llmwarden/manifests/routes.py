"""The AlertmanagerConfig of an LLMService: who is told of its alerts, and which of them silence others.

Every alert carries the service's namespace and name, and the route asks for both: whether the Prometheus Operator adds a matcher on the
namespace by itself is the Alertmanager's setting (alertmanagerConfigMatcherStrategy). Secrets are named, never read: Alertmanager's own
operator reads them, in the service's namespace.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.api.v1alpha1.llmservice import Alerts
from llmwarden.domain.objectives import AvailabilityObjective, ErrorsObjective
from llmwarden.manifests.manifest import Manifest, beside
from llmwarden.manifests.params import Params

API_VERSION: Final = "monitoring.coreos.com/v1alpha1"
# One incident for one alert of one objective or budget: its trigger and its resolve have the same key. A page has another than the ticket
# that may have been open for days: who has acknowledged that would not be called again.
GROUP_BY: Final = ("alertname", "namespace", names.LABEL_M_SERVICE, "objective", "budget", "kind", "severity")
GROUP_WAIT: Final = "15s"
GROUP_INTERVAL: Final = "1m"
REPEAT_INTERVAL: Final = "4h"
# A budget that refuses calls makes errors by itself: its own alert says why, a second page would say less. What burns slow calls is not of it.
SILENCED_BY_BUDGET: Final = ("LLMErrorRateHigh", "LLMErrorBudgetBurn")

# Budgets that refuse calls at their end. One with Fallback or Alert goes on, for weeks maybe: its errors are errors.
REFUSING: Final = ("Block", "Throttle")

_SEVERITY: Final = '{{ if eq .CommonLabels.severity "critical" }}critical{{ else }}warning{{ end }}'
# Of the first alert: several in one group (GPUs of one pod) have no summary in common, and an event without one is refused.
_FIRST: Final = "{{ (index .Alerts 0).Annotations.%s }}"
_SUMMARY: Final = _FIRST % "summary" + "{{ if gt (len .Alerts) 1 }} ({{ len .Alerts }} alerts){{ end }}"
# Where the platform team has not said where runbooks and Grafana are, an address is a path only, which is no link.
_LINK: Final = '{{ $url := (index .Alerts 0).Annotations.%s }}{{ if match "^https?://" $url }}{{ $url }}{{ end }}'
_TITLE: Final = "[{{ .Status | toUpper }}] {{ .CommonLabels.alertname }} {{ .CommonLabels.namespace }}/{{ .CommonLabels.llmservice }}"
_TEXT: Final = (
    "{{ range .Alerts }}{{ .Annotations.summary }}\n{{ .Annotations.description }}\n"
    "Runbook: {{ .Annotations.runbook_url }}\n{{ end }}"
)


def alertmanager_config(params: Params) -> Manifest | None:
    """Build the AlertmanagerConfig; None where nobody is to be told, or there is no such API."""
    alerts = params.service.spec.alerts
    if alerts is None or not params.capabilities.alertmanager_configs:
        return None
    receiver = _receiver(alerts)
    if not receiver:
        return None
    metadata = params.service.metadata
    mine = [_equal("namespace", metadata.namespace), _equal(names.LABEL_M_SERVICE, metadata.name)]
    return {
        "apiVersion": API_VERSION,
        "kind": "AlertmanagerConfig",
        "metadata": beside(
            params.service, names.PREFIX_ROUTE + metadata.name, "route", params.settings.alertmanager_config_labels
        ),
        "spec": {
            "route": {
                "receiver": "people",
                "groupBy": list(GROUP_BY),
                "groupWait": GROUP_WAIT,
                "groupInterval": GROUP_INTERVAL,
                "repeatInterval": REPEAT_INTERVAL,
                "matchers": mine,
            },
            "receivers": [{"name": "people", **receiver}],
            "inhibitRules": [
                *(_silenced_by_budget(mine, target) for target in _made_by_refusals(params)),
                # A page says all that its ticket would.
                {
                    "sourceMatch": [*mine, _equal("severity", "critical")],
                    "targetMatch": [*mine, _equal("severity", "warning")],
                    "equal": [label for label in GROUP_BY if label != "severity"],
                },
            ],
        },
    }


def _made_by_refusals(params: Params) -> list[list[dict[str, str]]]:
    """Return what matches the alerts that a budget makes by refusing calls: calls that fail, not calls that are slow."""
    failing = [item.name for item in params.objectives if isinstance(item, (ErrorsObjective, AvailabilityObjective))]
    errors, burn = ([_equal("alertname", name)] for name in SILENCED_BY_BUDGET)
    return [errors, *([[*burn, _matches("objective", "|".join(failing))]] if failing else [])]


def _silenced_by_budget(mine: list[dict[str, str]], target: list[dict[str, str]]) -> dict[str, Any]:
    """Build the rule by which a budget's own alert, which says why, silences what would say less."""
    refuses = [_equal("alertname", "LLMBudgetExceeded"), _matches("action", "|".join(REFUSING))]
    return {
        "sourceMatch": [*mine, *refuses],
        "targetMatch": [*mine, *target],
        "equal": ["namespace", names.LABEL_M_SERVICE],
    }


def _receiver(alerts: Alerts) -> dict[str, Any]:
    receiver: dict[str, Any] = {}
    if alerts.pager_duty is not None:
        config: dict[str, Any] = {
            "sendResolved": True,
            "routingKey": alerts.pager_duty.routing_key_secret_ref.dump(),
            "description": _SUMMARY,
            "severity": _SEVERITY,
            "source": "{{ .CommonLabels.namespace }}/{{ .CommonLabels.llmservice }}",
            "client": "LLM Warden",
            "clientURL": _LINK % "dashboard_url",
            "group": "{{ .CommonLabels.namespace }}",
            "component": "{{ .CommonLabels.llmservice }}",
            "class": "{{ .CommonLabels.alertname }}",
            "details": [
                {"key": "description", "value": _FIRST % "description"},
                {"key": "runbook", "value": _FIRST % "runbook_url"},
                {"key": "dashboard", "value": _FIRST % "dashboard_url"},
            ],
            # Alertmanager leaves out a link without an address.
            "pagerDutyLinkConfigs": [
                {"href": _LINK % "runbook_url", "alt": "Runbook"},
                {"href": _LINK % "dashboard_url", "alt": "Dashboard"},
            ],
        }
        if alerts.pager_duty.url is not None:
            config["url"] = alerts.pager_duty.url
        receiver["pagerdutyConfigs"] = [config]
    if alerts.slack is not None:
        receiver["slackConfigs"] = [
            {
                "sendResolved": True,
                "apiURL": alerts.slack.url_secret_ref.dump(),
                **({"channel": alerts.slack.channel} if alerts.slack.channel else {}),
                "title": _TITLE,
                "text": _TEXT,
            }
        ]
    if alerts.webhook is not None:
        receiver["webhookConfigs"] = [{"sendResolved": True, "urlSecret": alerts.webhook.url_secret_ref.dump()}]
    if alerts.email is not None:
        receiver["emailConfigs"] = [{"sendResolved": True, "to": ", ".join(alerts.email.to)}]
    return receiver


def _equal(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value, "matchType": "="}


def _matches(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value, "matchType": "=~"}
