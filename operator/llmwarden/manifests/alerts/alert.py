"""One alert as a rule for all services: how severe, what to read. The series say whose it is."""

from collections.abc import Mapping
from typing import Any, Final

from llmwarden import names
from llmwarden.manifests import promql
from llmwarden.settings import Settings

RUNBOOKS: Final = "docs/runbooks"
WINDOW: Final = "5m"
FEW_CALLS: Final = 5  # in WINDOW: below that, one slow call would be an alert
ANY: Final = (
    f'{names.LABEL_M_SERVICE}!=""'  # the series of all services; an application's own telemetry has no such label
)
Rule = dict[str, Any]


def alert(
    settings: Settings,
    name: str,
    expr: str,
    *,
    wait: str,
    severity: str,
    summary: str,
    description: str,
    labels: dict[str, str] | None = None,
    keep: str = "",
    optional: bool = False,
) -> Rule:
    """Build an alerting rule. `wait` is its `for`, `keep` its `keep_firing_for`; both may be empty.

    `summary` carries the figure, in words a person acts on; `description` says what to look at. What `expr` returns must have the labels
    `namespace` and `llmservice`: AlertmanagerConfig routes by them. The rule holds for services that have rules of their own, because pods of a service
    that was deleted run on for a while. An `optional` one holds where `defaults.wanted` has it.
    """
    holds = f'{names.RECORD_SPEC}{{alerts=~".*,{name},.*"}}' if optional else names.RECORD_SPEC
    rule: Rule = {
        "alert": name,
        "expr": f"({expr})\nand on ({promql.BY}) {holds}",
        "labels": {**(labels or {}), "severity": severity},
        "annotations": {
            "summary": f"LLMService {{{{ $labels.namespace }}}}/{{{{ $labels.{names.LABEL_M_SERVICE} }}}}: {summary}",
            "description": description,
            "runbook_url": f"{settings.runbook_base_url.rstrip('/') or RUNBOOKS}/{name}.md",
            "dashboard_url": f"{settings.grafana_url.rstrip('/')}/d/{recorded(names.RECORD_SPEC, 'dashboard')}",
        },
    }
    if wait:
        rule["for"] = wait
    if keep:
        rule["keep_firing_for"] = keep
    return rule


def recorded(record: str, label: str, *by: str, words: Mapping[str, str] | None = None) -> str:
    """Return a template that asks for a label of what was recorded beside the alert's service; `by` are more labels that it shares with the alert.

    `words`: what is said instead of each value that the label may have.
    """
    shared = ("namespace", names.LABEL_M_SERVICE, *by)
    matchers = ",".join(f"{name}=%q" for name in shared)
    values = " ".join(f"$labels.{name}" for name in shared)
    said = f'{{{{ . | first | label "{label}" }}}}'
    if words:
        query = f'{{{{ $found := . | first | label "{label}" }}}}'
        said = query + "".join(f'{{{{ if eq $found "{value}" }}}}{text}{{{{ end }}}}' for value, text in words.items())
    return f'{{{{ with query (printf "{record}{{{matchers}}}" {values}) }}}}{said}{{{{ end }}}}'
