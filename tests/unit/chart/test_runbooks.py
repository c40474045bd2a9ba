"""Every alert has its page, and every page its alert."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
RUNBOOKS = ROOT / "docs" / "runbooks"
KINDS = {"LLMService", "LLMBudget"}


def alerts() -> set[str]:
    """Names in the code that builds; tests/golden/alerts/test_all.py holds what is built against them."""
    words = set()
    ours = ROOT / "operator" / "llmwarden"
    for file in (*(ours / "manifests" / "alerts").rglob("*.py"), ours / "domain" / "indicators.py"):
        tree = ast.parse(file.read_text())
        words |= {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
    return {word for word in words if re.fullmatch(r"LLM[A-Z][A-Za-z0-9]+", word)} - KINDS


def test_alerts_and_runbooks_are_the_same() -> None:
    assert len(alerts()) >= 4
    assert {path.stem for path in RUNBOOKS.glob("LLM*.md")} == alerts()


def test_a_runbook_says_what_to_look_at_and_what_to_do() -> None:
    for path in RUNBOOKS.glob("LLM*.md"):
        text = path.read_text()
        assert text.startswith(f"# {path.stem}\n"), path.name
        assert "\n## Look at\n" in text, path.name
        assert "\n## Do\n" in text, path.name


def test_runbooks_name_only_metrics_that_exist() -> None:
    names = (ROOT / "operator" / "llmwarden" / "names.py").read_text()
    for path in RUNBOOKS.glob("LLM*.md"):
        for metric in re.findall(r"\b(?:gen_ai_(?:client|server)|llmwarden)_[a-z_]+", path.read_text()):
            assert f'"{metric.removesuffix("_bucket").removesuffix("_count")}"' in names, f"{path.name}: {metric}"
