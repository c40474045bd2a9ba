"""`promtool test rules` on what the operator builds: series in, alerts out, at chosen times."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from image import packages


@dataclass(frozen=True)
class Case:
    """Series (as promtool writes them, one sample a minute) and, by time, the labels of the alerts that must fire then (of one name)."""

    alert: str
    series: dict[str, str]
    fires: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    interval: str = "1m"


def check(rule: dict[str, Any], case: Case, where: Path) -> str:
    """Run a case; returns promtool's complaint, empty where all holds. Annotations are not compared: each test looks at them itself."""
    spec = {
        "groups": [{**group, "rules": [_plain(item) for item in group["rules"]]} for group in rule["spec"]["groups"]]
    }
    (where / "rules.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": case.interval,
        "tests": [
            {
                "interval": case.interval,
                "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
                "alert_rule_test": [
                    {
                        "eval_time": at,
                        "alertname": case.alert,
                        "exp_alerts": [{"exp_labels": labels} for labels in expected],
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
    spec = {
        "groups": [{**group, "rules": [_plain(item) for item in group["rules"]]} for group in rule["spec"]["groups"]]
    }
    (where / "rules.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
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


def _plain(rule: dict[str, Any]) -> dict[str, Any]:
    """A rule without annotations: promtool compares them all or not at all."""
    return {key: value for key, value in rule.items() if key != "annotations"}
