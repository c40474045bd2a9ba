"""What must hold of every alert there is: whose it is, how grave, what to do with which figure, where to read on; and that it was tried."""

import ast
import itertools
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.api.v1alpha1.llmservice import KINDS
from llmwarden.desired import platform
from llmwarden.desired.defaults import BUILDERS, OFF
from llmwarden.desired.params import ClusterParams, Params
from llmwarden.desired.routes import SILENCED_BY_BUDGET
from llmwarden.desired.rules import rules
from llmwarden.desired.snapshot import Capabilities
from llmwarden.domain import budgets, objectives
from llmwarden.settings import Settings
from tests.golden.alerts import test_defaults, test_indicators, test_objectives, test_platform, test_spending
from tests.golden.alerts.promtool import Case

ROOT = Path(__file__).parents[3]
DESIRED = ROOT / "operator" / "llmwarden" / "desired"
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


def of_service(*, spend: bool) -> list[dict[str, Any]]:
    """All alerts of a service that asks for all there is; with an objective on spending the default on it gives way."""
    wanted = [item for kind in KINDS if spend or kind != "spend" for item in OBJECTIVES[kind]]
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
    made = rules(Params(service, SETTINGS, Capabilities(rules=True), objectives.of_service(service), held))
    assert made is not None
    return [item for group in made["spec"]["groups"] for item in group["rules"] if "alert" in item]


def of_platform() -> list[dict[str, Any]]:
    """All alerts that are no service's."""
    made = platform.rules(ClusterParams((), SETTINGS, Capabilities(rules=True), accounts=True))
    assert made is not None
    return [item for group in made["spec"]["groups"] for item in group["rules"] if "alert" in item]


SERVICES = [*of_service(spend=True), *of_service(spend=False)]
PLATFORM = of_platform()
EVERY = sorted({item["alert"] for item in (*SERVICES, *PLATFORM)})
TRIED: list[Case] = [
    *(Case(name, *case) for name, cases in test_defaults.CASES.items() for case in cases),
    *(
        Case("LLMErrorBudgetBurn", series, fires)
        for cases in test_indicators.CASES.values()
        for _, series, fires in cases
    ),
    *test_objectives.CASES,
    *test_spending.CASES.values(),
    *test_platform.CASES.values(),
]


def words() -> set[str]:
    """Every name of an alert that stands in the code that builds."""
    found: set[str] = set()
    for file in DESIRED.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^LLM[A-Z][A-Za-z0-9]+$", node.value))
    return found - {"LLMService", "LLMBudget"}


def test_no_alert_is_out_of_this_tests_sight() -> None:
    assert set(EVERY) == words()
    assert set(OBJECTIVES) == set(KINDS)
    assert set(BUILDERS) | set(SILENCED_BY_BUDGET) <= set(EVERY)


@pytest.mark.parametrize("alert", [*SERVICES, *PLATFORM], ids=lambda alert: alert["alert"])
def test_it_says_how_grave_it_is_and_what_to_do_with_which_figure(alert: dict[str, Any]) -> None:
    labels, notes = alert["labels"], alert["annotations"]
    assert labels["severity"] in {"critical", "warning"}
    assert labels["namespace"]
    assert "$value" in notes["summary"]
    assert len(notes["description"]) > 40
    assert notes["runbook_url"] == f"https://runbooks.example/{alert['alert']}.md"
    assert (ROOT / "docs" / "runbooks" / f"{alert['alert']}.md").exists()
    assert notes["dashboard_url"].startswith("https://grafana.example/d/llmwarden-")


@pytest.mark.parametrize("alert", SERVICES, ids=lambda alert: alert["alert"])
def test_a_services_own_says_whose_it_is(alert: dict[str, Any]) -> None:
    assert alert["labels"]["namespace"] == "models"
    assert alert["labels"]["llmservice"] == "chat"
    assert "models/chat" in alert["annotations"]["summary"]
    # What is asked of series is always of this service, or of its namespace where they know the pod only.
    assert 'namespace="models"' in alert["expr"]


@pytest.mark.parametrize("name", EVERY)
def test_it_was_seen_to_fire_to_be_silent_and_to_clear(name: str) -> None:
    seen: dict[str, bool] = defaultdict(bool)
    for case in TRIED:
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
