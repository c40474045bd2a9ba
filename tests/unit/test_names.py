"""A name that two parts must spell alike is spelled in `names.py` only: else one of them is changed and the other not."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "operator" / "llmwarden"
# Series, labels and annotations, our own headers.
OURS = re.compile(r"\bllmservice:[a-z]|\bllmwarden\.io/(?!v1alpha1$)[a-z]|\bx-llmwarden-[a-z]", re.IGNORECASE)


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string of a file with its line, docstrings and texts for people left out."""
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))  # a docstring, of whatever it stands below
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in skipped:
            text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
            if isinstance(text, str):
                yield node.lineno, text


def spelled(source: str) -> list[tuple[int, str]]:
    """Names of ours that a file spells by itself."""
    return [(line, text) for line, text in strings(ast.parse(source)) if OURS.search(text)]


def test_names_are_spelled_once() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "names.py"
        for line, text in spelled(path.read_text())
    }
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('X = "llmservice:requests:rate5m"', 1),
        ('X = f"sum(llmservice:requests:rate5m{of})"', 1),
        ('X = b"x-llmwarden-team"', 1),
        ('LABEL = "llmwarden.io/injection"', 1),
        ('"""llmservice:requests is a series."""', 0),
        ("from llmwarden import names\nX = names.RECORD_ANSWERED", 0),
    ],
)
def test_a_name_spelled_elsewhere_would_be_found(source: str, count: int) -> None:
    assert len(spelled(source)) == count
