"""What must hold of every alert there is: whose it is, how grave, what to do with which figure, where to read on; and that it was tried."""

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.api.v1alpha1.llmservice import KINDS
from llmwarden.domain import budgets, objectives
from llmwarden.manifests.alerts import platform, rules, shared_rules
from llmwarden.manifests.alerts.defaults import APPLIES, OFF
from llmwarden.manifests.manifest import dashboard_uid
from llmwarden.manifests.params import ClusterParams, Params
from llmwarden.manifests.routes import SILENCED_BY_BUDGET
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities
from tests.golden.alerts import test_defaults, test_indicators, test_objectives, test_platform, test_spending
from tests.golden.alerts.promtool import Case, annotations, rules_for

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ALERTS = ROOT / "operator" / "llmwarden" / "manifests" / "alerts"
INDICATORS = ROOT / "operator" / "llmwarden" / "domain" / "indicators.py"  # with the alerts of latency objectives
SETTINGS = Settings(grafana_url="https://grafana.example/", runbook_base_url="https://runbooks.example/")
SHARE = {"targetPercent": "99", "window": "28d"}
# One of each kind; latency by each of its indicators.
OBJECTIVES: dict[str, list[dict[str, Any]]] = {
    "latency": [
        {"latency": {"indicator": name, "threshold": "1s"}, **SHARE}
        for name in ("RequestDuration", "TimeToFirstToken", "TimePerOutputToken")
    ],
    "errors": [{"errors": {}, **SHARE}],
    "availability": [{"availability": {}, **SHARE}],
    "contextUse": [{"contextUse": {"thresholdPercent": 80}, **SHARE}],
    "queueTime": [{"queueTime": {"threshold": "500ms"}, **SHARE}],
    "kvCache": [{"kvCache": {"thresholdPercent": 90}, **SHARE}],
    "spend": [{"spend": {"perHour": "30.00"}}],
}


def params() -> Params:
    """A service that asks for all there is."""
    wanted = [item for kind in KINDS for item in OBJECTIVES[kind]]
    service = parse(
        LLMService,
        {
            "metadata": {"name": "chat", "namespace": "models", "uid": "u", "generation": 1},
            "spec": {
                "backend": {"type": "VLLM"},
                "workload": {"selector": {"matchLabels": {"app": "chat"}}, "interception": {"port": {"name": "http"}}},
                "gpu": {"exporter": "Auto"},
                "alerts": {"enable": sorted(OFF)},
                "objectives": [{"name": f"o{number}", **item} for number, item in enumerate(wanted)],
                "budgets": [
                    {
                        "name": "monthly",
                        "limit": {"amount": "100.00"},
                        "window": {"calendar": "Month"},
                        "warnAtPercent": [50],
                        "onExceeded": {"action": "Block"},
                    }
                ],
            },
        },
    )
    held = budgets.of_service(service)
    return Params(service, SETTINGS, Capabilities(rules=True), objectives.of_service(service), held)


def of_services() -> list[dict[str, Any]]:
    """All alerts of services."""
    made = shared_rules.rules(ClusterParams((), SETTINGS, Capabilities(rules=True)))
    assert made is not None
    return [item for group in made["spec"]["groups"] for item in group["rules"] if "alert" in item]


def of_platform() -> list[dict[str, Any]]:
    """All alerts that are no service's."""
    made = platform.rules(ClusterParams((), SETTINGS, Capabilities(rules=True), accounts=True))
    assert made is not None
    return [item for group in made["spec"]["groups"] for item in group["rules"] if "alert" in item]


SERVICES = of_services()
PLATFORM = of_platform()
EVERY = sorted({item["alert"] for item in (*SERVICES, *PLATFORM)})
# Each case with the rules that it is tried on.
TRIED: list[tuple[Case, Callable[[], dict[str, Any]]]] = [
    *(
        (Case(name, *case), lambda: rules_for(replace(test_defaults.params(enable=sorted(OFF)), settings=SETTINGS)))
        for name, cases in test_defaults.CASES.items()
        for case in cases
    ),
    *(
        (Case("LLMErrorBudgetBurn", series, fires), partial(test_indicators.rule, kind, SETTINGS))
        for kind, cases in test_indicators.CASES.items()
        for _, series, fires in cases
    ),
    *((case, partial(test_objectives.rule, SETTINGS)) for case in test_objectives.CASES),
    *((case, partial(test_spending.rule, settings=SETTINGS)) for case in test_spending.CASES.values()),
    *((case, partial(test_platform.rule, SETTINGS)) for case in test_platform.CASES.values()),
]


def words() -> set[str]:
    """Every name of an alert that stands in the code that builds."""
    found: set[str] = set()
    for file in (*ALERTS.rglob("*.py"), INDICATORS):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^LLM[A-Z][A-Za-z0-9]+$", node.value))
    return found - {"LLMService", "LLMBudget"}


def test_no_alert_is_out_of_this_tests_sight() -> None:
    assert set(EVERY) == words()
    assert set(OBJECTIVES) == set(KINDS)
    assert set(APPLIES) | set(SILENCED_BY_BUDGET) <= set(EVERY)


@pytest.mark.parametrize("alert", [*SERVICES, *PLATFORM], ids=lambda alert: alert["alert"])
def test_it_says_how_severe_it_is_and_what_to_do_with_which_figure(alert: dict[str, Any]) -> None:
    notes = alert["annotations"]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert "$value" in notes["summary"]
    assert len(notes["description"]) > 40
    assert notes["runbook_url"] == f"https://runbooks.example/{alert['alert']}.md"
    assert (ROOT / "docs" / "runbooks" / f"{alert['alert']}.md").exists()


def test_what_it_tells_when_it_fires(golden: Callable[[Path, str], None], tmp_path: Path) -> None:
    """Of every alert, templates filled in; with the namespace and service that route it."""
    told: dict[str, dict[str, str]] = {}
    for case, rule in TRIED:
        firing = [labels for fires in case.fires.values() for labels in fires]
        if case.alert in told or not firing:
            continue
        found = annotations(rule(), case, tmp_path)
        labels = firing[0]
        assert {"namespace", "severity"} <= set(labels)
        if case.alert not in {item["alert"] for item in PLATFORM}:
            whose = labels["namespace"], labels["llmservice"]
            assert found["summary"].startswith(f"LLMService {'/'.join(whose)}: ")
            assert found["dashboard_url"] == f"https://grafana.example/d/{dashboard_uid(*whose)}"
        assert not re.search(r"\{\{|<no value>|<error|  ", " ".join(found.values())), found
        told[case.alert] = found
    assert set(told) == set(EVERY)
    golden(HERE / "expected" / "told.yaml", yaml.safe_dump(dict(sorted(told.items())), width=160))


def test_a_rule_for_all_services_reads_no_service_in_particular() -> None:
    for alert in SERVICES:
        assert not re.search(r'\b(namespace|llmservice)="', alert["expr"]), alert["alert"]
        assert names.RECORD_SPEC in alert["expr"]


def test_beside_a_service_there_are_no_alerts() -> None:
    made = rules.rules(params())
    assert made is not None
    assert not [item for group in made["spec"]["groups"] for item in group["rules"] if "alert" in item]


@pytest.mark.parametrize("name", EVERY)
def test_it_was_seen_to_fire_to_be_silent_and_to_clear(name: str) -> None:
    seen: dict[str, bool] = defaultdict(bool)
    for case, _ in TRIED:
        if case.alert != name:
            continue
        firing = [bool(expected) for _, expected in sorted(case.fires.items(), key=lambda item: minutes(item[0]))]
        seen["fires"] |= any(firing)
        seen["silent"] |= not all(firing)
        seen["clears"] |= any(before and not after for before, after in itertools.pairwise(firing))
    assert dict(seen) == {"fires": True, "silent": True, "clears": True}


def minutes(text: str) -> int:
    """Read a time of a case, such as 90m or 3h."""
    return int(text[:-1]) * {"m": 1, "h": 60, "d": 1440}[text[-1]]
