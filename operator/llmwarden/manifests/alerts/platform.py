"""Alerts that are no service's: the platform's own PrometheusRule, in our namespace. Those on providers' bills only where there are ProviderAccounts."""

from typing import Any, Final

from llmwarden import names
from llmwarden.manifests.alerts.alert import RUNBOOKS
from llmwarden.manifests.manifest import DASHBOARD_OVERVIEW_UID, Manifest, ours
from llmwarden.manifests.monitors import API_VERSION
from llmwarden.manifests.params import ClusterParams

HOARDED_SHARE: Final = 0.05  # of the limit, held beyond what was used in the last quarter of an hour
UNREAD_SECONDS: Final = 86_400  # providers are asked each hour, and again after six at most
_BY: Final = f"account, {names.LABEL_M_PROVIDER}"
_MEANING: Final = {
    "ProviderHasMore": "more tokens than the ledger counted: some calls bypass the proxies",
    "LedgerHasMore": "fewer tokens than the ledger counted: calls use another account, or calls that it does not charge are counted",
    "ProviderDearer": "the same tokens at a higher cost: a price in the ledger is too low or missing",
    "LedgerDearer": "the same tokens at a lower cost: there is a discount that no ModelPrice has",
}
_IN_TOKENS: Final = frozenset({"ProviderHasMore", "LedgerHasMore"})
_FIGURES: Final = {
    verdict: "{{ $value | humanize }} tokens" if verdict in _IN_TOKENS else '${{ printf "%.2f" $value }}'
    for verdict in _MEANING
}

QUOTA_WARNS: Final = 0.8  # share of a namespace's quota of rows


def rules(params: ClusterParams) -> Manifest | None:
    """Build the PrometheusRule."""
    if not params.capabilities.rules:
        return None
    wanted = [_unwatched(params), _quota(params), _folded(params), _quarantined(params), _hoarded(params)]
    if params.accounts:
        wanted += [*_drifts(params), _unread(params)]
    return {
        "apiVersion": API_VERSION,
        "kind": "PrometheusRule",
        "metadata": ours(names.RULES_PLATFORM, "alerts", params.settings.namespace, params.settings.rule_labels),
        "spec": {"groups": [{"name": "llmwarden/platform", "rules": wanted}]},
    }


def _unwatched(params: ClusterParams) -> dict[str, Any]:
    whose = "namespace, pod, resource"
    return _alert(
        params,
        "LLMWatchFailing",
        f"(sum by ({whose}) (increase({names.METRIC_WATCH_ERRORS}[10m])))\nand (min by ({whose}) ({names.METRIC_WATCH_UP}) == 0)",
        wait="5m",
        severity="critical",
        summary='{{ $labels.pod }} cannot watch {{ $labels.resource }}: {{ printf "%.0f" $value }} attempts failed in 10 minutes',
        description=(
            "LLM Warden learns of changes through watches. Until this watch works again, the operator does not act on edits and new pods, the webhook "
            "may let pods start without a proxy, or the ledger keeps old budgets and prices. The pod's log has the API server's answer. "
            "If it is `forbidden`, a ClusterRole differs from what the chart installed."
        ),
    )


def _quota(params: ClusterParams) -> dict[str, Any]:
    return _alert(
        params,
        "LLMLedgerQuota",
        _tenants(f"max by (namespace) ({names.METRIC_LEDGER_QUOTA}) > {QUOTA_WARNS}"),
        severity="warning",
        summary="namespace {{ $labels.tenant }} has used {{ $value | humanizePercentage }} of its room in the ledger",
        description=(
            "Its pods report very many models, prices or labels. When the quota is used up, further rows count together as (other): no token is lost, "
            "but such tokens have no price of their own, and budgets count them at the provider's highest price. Other namespaces are not affected."
        ),
    )


def _folded(params: ClusterParams) -> dict[str, Any]:
    return _alert(
        params,
        "LLMLedgerRowsFolded",
        _tenants(f"sum by (namespace) (increase({names.METRIC_LEDGER_FOLDED}[15m])) > 0"),
        severity="warning",
        summary='namespace {{ $labels.tenant }} reported {{ printf "%.0f" $value }} rows beyond its quotas in 15 minutes',
        description=(
            "A quota of the namespace or of one of its pods is used up: the pods report too many models, prices or labels. Such rows count together "
            "as (other): no token is lost, but those whose model is (other) have no price of their own, and budgets count them at the provider's "
            "highest price. Other namespaces are not affected."
        ),
    )


def _tenants(expression: str) -> str:
    """Name the namespace that a figure is about `tenant`: an alert's own namespace is ours."""
    return f'label_replace({expression}, "tenant", "$1", "namespace", "(.+)")'


def _quarantined(params: ClusterParams) -> dict[str, Any]:
    whose = f"namespace, {names.LABEL_M_SERVICE}"
    tokens, requests = (
        f"max by ({whose}) ({metric})"
        for metric in (names.METRIC_LEDGER_QUARANTINED, names.METRIC_LEDGER_QUARANTINED_REQUESTS)
    )
    return _alert(
        params,
        "LLMUsageQuarantined",
        # The alert is the platform's, in our namespace: the service's is in a label of its own. max: each replica says the same.
        f'label_replace(\n  ({tokens} > 0) or ({requests} > 0),\n  "service_namespace", "$1", "namespace", "(.*)"\n)',
        severity="warning",
        summary=(
            f"LLMService {{{{ $labels.service_namespace }}}}/{{{{ $labels.{names.LABEL_M_SERVICE} }}}} reported implausible usage: "
            "{{ $value | humanize }} tokens (or calls) are quarantined"
        ),
        description=(
            "A pod reported more tokens or calls than one pod can plausibly use (ledger.plausible in the chart's values). They count in the service's own "
            "budgets and in its namespace's, but not in ClusterLLMBudgets. The ledger's log names the pod. If the usage is real, kubectl llm release; if "
            "it is not, kubectl llm writeoff."
        ),
    )


def _hoarded(params: ClusterParams) -> dict[str, Any]:
    service = names.LABEL_M_SERVICE
    return _alert(
        params,
        "LLMBudgetHoarded",
        # Under a label of its own: the rule's namespace is ours. max: each replica of the ledger says the same.
        f'max by (kind, budget, holder, {service}) (label_replace({names.METRIC_LEASE_UNUSED}, "holder", "$1", "namespace", "(.*)")) '
        f"> {HOARDED_SHARE}",
        wait="15m",
        severity="warning",
        summary=(
            "{{ $labels.kind }} {{ $labels.budget }}: namespace {{ $labels.holder }}"
            f"{{{{ with $labels.{service} }}}} (service {{{{ . }}}}){{{{ end }}}} holds {{{{ $value | humanizePercentage }}}} of the limit "
            "and spends little of it"
        ),
        description=(
            "Others that share this budget cannot spend what it holds. Either its calls reserve much more than they use, or a program in its pods "
            "reports in the proxy's name. The ledger bounds what one holder gets (ledger.leases in the chart's values). Nothing was overspent."
        ),
    )


def _drifts(params: ClusterParams) -> list[dict[str, Any]]:
    return [
        _alert(
            params,
            "LLMCostDrift",
            _drifted(verdict),
            severity="critical" if verdict == "ProviderHasMore" else "warning",
            summary=(
                f"ProviderAccount {{{{ $labels.account }}}}: {{{{ $labels.{names.LABEL_M_PROVIDER} }}}} bills {meaning} "
                f"(a difference of {_FIGURES[verdict]})"
            ),
            description=(
                "This is about the newest UTC day for which the provider's figures are final. kubectl describe provideraccount shows both figures; "
                "kubectl llm reconcile shows earlier days."
            ),
        )
        for verdict, meaning in _MEANING.items()
    ]


def _drifted(verdict: str) -> str:
    """Where both part in this way, by how much. max: each replica of the ledger says the same."""
    metric = names.METRIC_PROVIDER_TOKENS if verdict in _IN_TOKENS else names.METRIC_PROVIDER_COST
    provider, ledger = (f'max by ({_BY}) ({metric}{{source="{source}"}})' for source in ("provider", "ledger"))
    drift = f'max by ({_BY}, verdict) ({names.METRIC_PROVIDER_DRIFT}{{verdict="{verdict}"}}) == 1'
    return f"({drift})\n* on ({_BY}) group_left () abs({provider} - {ledger})"


def _unread(params: ClusterParams) -> dict[str, Any]:
    return _alert(
        params,
        "LLMProviderUnread",
        f"time() - max by ({_BY}) ({names.METRIC_PROVIDER_READ}) > {UNREAD_SECONDS}",
        wait="1h",
        severity="warning",
        summary=(
            "ProviderAccount {{ $labels.account }}: the provider's own figures "
            # The timestamp is 0 where they never were.
            "{{ if gt $value 1e8 }}were never read{{ else }}have not been read for {{ $value | humanizeDuration }}{{ end }}"
        ),
        description="Until they are, nothing is compared. The account's condition Ready has the provider's answer. Often the admin key was revoked.",
    )


def _alert(
    params: ClusterParams, name: str, expr: str, *, severity: str, summary: str, description: str, wait: str = ""
) -> dict[str, Any]:
    rule = {
        "alert": name,
        "expr": expr,
        "labels": {"namespace": params.settings.namespace, "severity": severity},
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook_url": f"{params.settings.runbook_base_url.rstrip('/') or RUNBOOKS}/{name}.md",
            "dashboard_url": f"{params.settings.grafana_url.rstrip('/')}/d/{DASHBOARD_OVERVIEW_UID}",
        },
    }
    return {**rule, "for": wait} if wait else rule
