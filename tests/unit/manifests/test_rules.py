"""What of the alerts the platform team sets."""

import pytest

from llmwarden.manifests.alerts.shared_rules import rules
from llmwarden.manifests.params import ClusterParams
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("", "docs/runbooks/LLMErrorRateHigh.md"),
        ("https://git.example/runbooks/", "https://git.example/runbooks/LLMErrorRateHigh.md"),
    ],
)
def test_an_alert_says_where_its_runbook_is(base: str, expected: str) -> None:
    made = rules(ClusterParams((), Settings(runbook_base_url=base), Capabilities(rules=True)))
    assert made is not None
    found = [rule for group in made["spec"]["groups"] for rule in group["rules"]]
    assert expected in {rule["annotations"]["runbook_url"] for rule in found if "alert" in rule}
