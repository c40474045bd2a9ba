"""`promtool test rules` on what the operator builds, for all services and beside one: series in, alerts out, at chosen times."""

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from image import packages
from llmwarden.manifests.alerts import rules, shared_rules
from llmwarden.manifests.params import ClusterParams, Params

_WORD = re.compile(r"[a-zA-Z_:][\w:]*")


@dataclass(frozen=True)
class Case:
    """Series (as promtool writes them, one sample a minute) and, by time, the labels of the alerts that must fire then (of one name)."""

    alert: str
    series: dict[str, str]
    fires: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    interval: str = "1m"


def rules_for(*services: Params) -> dict[str, Any]:
    """All groups that a Prometheus has with these services: those for all of them, and those beside each."""
    first = services[0]
    made = [shared_rules.rules(ClusterParams((), first.settings, first.capabilities)), *map(rules.rules, services)]
    return {"spec": {"groups": [group for item in made if item is not None for group in item["spec"]["groups"]]}}


def check(rule: dict[str, Any], case: Case, where: Path) -> str:
    """Run a case; returns promtool's complaint, empty where all holds. Annotations are not compared: `annotations` returns them."""
    _write(rule, {case.alert}, where, plain=True)
    return _run(case, where, {})


def annotations(rule: dict[str, Any], case: Case, where: Path) -> dict[str, str]:
    """Return the annotations, templates filled in, of the first alert that fires in a case."""
    _write(rule, {case.alert}, where, plain=False)
    # promtool shows them where they are not as expected only.
    said = _run(case, where, {"exp_annotations": {"none": "none"}})
    found = re.search(r"got:\[\s*0:\s*Labels:\{.*\}\s*Annotations:\{(.*)\}", said)
    assert found, said
    return {name: json.loads(f'"{text}"') for name, text in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[1])}


def _run(case: Case, where: Path, more: dict[str, Any]) -> str:
    test = {
        "rule_files": ["rules.yaml"],
        "group_eval_order": _order(where),
        "evaluation_interval": case.interval,
        "tests": [
            {
                "interval": case.interval,
                "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
                "alert_rule_test": [
                    {
                        "eval_time": at,
                        "alertname": case.alert,
                        "exp_alerts": [{"exp_labels": labels, **more} for labels in expected],
                    }
                    for at, expected in case.fires.items()
                ],
            }
        ],
    }
    file = where / "test.yaml"
    file.write_text(yaml.safe_dump(test), encoding="utf-8")
    done = subprocess.run(
        [packages.promtool_path(), "test", "rules", str(file)], capture_output=True, text=True, check=False, cwd=where
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def evaluate(
    rule: dict[str, Any], series: dict[str, str], at: str, wanted: dict[str, dict[str, float]], where: Path
) -> str:
    """Record a rule's series over others and ask queries at a time; `wanted` has of each query the values by labels as promtool writes them.

    Returns promtool's complaint, empty where all holds.
    """
    _write(rule, set(_WORD.findall(" ".join(wanted))), where, plain=True)
    queries = [
        {
            "expr": query,
            "eval_time": at,
            "exp_samples": [{"labels": labels, "value": value} for labels, value in values.items()],
        }
        for query, values in wanted.items()
    ]
    test = {
        "rule_files": ["rules.yaml"],
        "group_eval_order": _order(where),
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": queries,
            }
        ],
    }
    file = where / "test.yaml"
    file.write_text(yaml.safe_dump(test), encoding="utf-8")
    done = subprocess.run(
        [packages.promtool_path(), "test", "rules", str(file)], capture_output=True, text=True, check=False, cwd=where
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _write(rule: dict[str, Any], wanted: set[str], where: Path, *, plain: bool) -> None:
    """Write what is wanted, by alert or record, and all records that it is made of: what else there is would only take time."""
    every = [item for group in rule["spec"]["groups"] for item in group["rules"]]
    found: set[str] = set()
    while wanted - found:
        found |= wanted
        mine = [item for item in every if (item.get("record") or item["alert"]) in found]
        # Annotations ask for what was recorded, too.
        texts = [item["expr"] for item in mine] + ([] if plain else [str(item.get("annotations")) for item in mine])
        wanted = {word for text in texts for word in _WORD.findall(text)}
    groups = [
        {
            **group,
            "rules": [
                _plain(item) if plain else item
                for item in group["rules"]
                if (item.get("record") or item["alert"]) in found
            ],
        }
        for group in rule["spec"]["groups"]
    ]
    spec = {"groups": [group for group in groups if group["rules"]]}
    (where / "rules.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")


def _order(where: Path) -> list[str]:
    """Those for all services first, so that they read what was recorded a moment before: in a Prometheus the order is chance."""
    return [group["name"] for group in yaml.safe_load((where / "rules.yaml").read_text(encoding="utf-8"))["groups"]]


def _plain(rule: dict[str, Any]) -> dict[str, Any]:
    """A rule without annotations: promtool compares them all or not at all."""
    return {key: value for key, value in rule.items() if key != "annotations"}
