"""No two files of ours import each other, not even for types: whoever reads one can read what it needs first."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "operator"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "llmwarden").rglob("*.py")
}


def imports(path: Path) -> set[str]:
    """Our modules that a file imports anywhere: at its top, for types only, or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in FILES and FILES[name].name != "__init__.py"}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of a graph; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_files_import_each_other() -> None:
    assert not cycle({name: imports(path) for name, path in FILES.items()})


@pytest.mark.parametrize(
    ("graph", "expected"),
    [({"a": {"b"}, "b": {"c"}}, 0), ({"a": {"b"}, "b": {"c"}, "c": {"a"}}, 4), ({"a": {"b"}, "b": {"a"}}, 3)],
)
def test_a_circle_would_be_found(graph: dict[str, set[str]], expected: int) -> None:
    assert len(cycle(graph)) == expected
