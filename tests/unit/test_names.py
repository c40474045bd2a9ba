"""A name that two parts must spell alike is spelled in `names.py` only. Otherwise a change to one of them misses the other.

Series that the rules record (`llmservice:*`) belong to `names.py`, too: alerts, panels and status read them.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from llmwarden import names

ROOT = Path(__file__).parents[2] / "operator" / "llmwarden"
# Spelled in names.py, whatever they are part of: recorded series, labels and annotations, our own headers.
OURS = re.compile(r"\bllmservice:[a-z]|\bllmwarden\.io/(?!v1alpha1$)[a-z]|\bx-llmwarden-[a-z]", re.IGNORECASE)
# Metrics and objects. One that a single file defines and nobody else names may stay there.
SHARED = re.compile(r"(?<![\w./:-])(?:llmwarden_[a-z0-9_]+|gen_ai_[a-z0-9_]+|llmwarden-[a-z0-9]+(?:-[a-z0-9]+)*)")
CONSTANTS = {key: value for key, value in vars(names).items() if key.isupper()}
PORTS = {value: key for key, value in CONSTANTS.items() if key.endswith(("_PORT", "_PORT_BASE"))}


def literals(tree: ast.Module) -> Iterator[tuple[int, str | int]]:
    """Every string and number of a file with its line. Docstrings are left out."""
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(id(node.value))  # whatever it stands below
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            value = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
            if isinstance(value, str | int) and not isinstance(value, bool):
                yield node.lineno, value


def texts(values: Iterable[object]) -> Iterator[str]:
    """All strings among constants, those within containers included."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from texts((*value.keys(), *value.values()))
        elif isinstance(value, tuple | frozenset):
            yield from texts(value)


def shared(text: str) -> set[str]:
    """The metrics and objects that a string names. Queries and client libraries add endings to a metric's name."""
    return {re.sub("_(?:total|bucket|count|sum)$", "", name) for name in SHARED.findall(text)}


NAMED = {name for text in texts(CONSTANTS.values()) for name in shared(text)}


def spelled(source: str) -> list[tuple[int, str | int]]:
    """The literals of a file that `names.py` should hold, or holds already."""
    return [
        (line, value)
        for line, value in literals(ast.parse(source))
        if (value in PORTS if isinstance(value, int) else OURS.search(value) or shared(value) & NAMED)
    ]


def repeated(files: Mapping[str, str]) -> dict[str, set[str]]:
    """Metrics and objects that more than one file names, with these files."""
    places: dict[str, set[str]] = defaultdict(set)
    for path, source in files.items():
        for _, value in literals(ast.parse(source)):
            for name in shared(value) if isinstance(value, str) else ():
                places[name].add(path)
    return {name: paths for name, paths in places.items() if len(paths) > 1}


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """The text of every file of ours but `names.py`."""
    paths = (path for path in sorted(ROOT.rglob("*.py")) if path.name != "names.py")
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def test_names_are_spelled_once(files: dict[str, str]) -> None:
    found = {f"{path}:{line}: {text}" for path, source in files.items() for line, text in spelled(source)}
    assert not found, "\n".join(sorted(found))


def test_what_two_files_name_is_in_names_py(files: dict[str, str]) -> None:
    assert repeated(files) == {}


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('X = "llmservice:requests:rate5m"', 1),
        ('X = f"sum(llmservice:requests:rate5m{of})"', 1),
        ('X = b"x-llmwarden-team"', 1),
        ('LABEL = "llmwarden.io/injection"', 1),
        ('"""llmservice:requests is a series."""', 0),
        ("from llmwarden import names\nX = names.RECORD_ANSWERED", 0),
        ('X = "sum(rate(llmwarden_requests_total[5m]))"', 1),
        ('X = Counter("llmwarden_ledger_unreported_pods", "Pods.")', 1),
        ('X = "gen_ai_client_operation_duration_seconds_bucket"', 1),
        ('X = f"{{gen_ai_request_model=`x`}}"', 1),
        ('X = "compare the ClusterRole llmwarden-operator"', 1),
        ("PORT = 9400", 1),
        ("PORT = 9401", 0),
        ("ENABLED = True", 0),
    ],
)
def test_a_name_spelled_elsewhere_would_be_found(source: str, count: int) -> None:
    assert len(spelled(source)) == count


def test_a_name_of_two_files_would_be_found() -> None:
    counter, query = 'Counter("llmwarden_new_things", "New.")', 'X = "rate(llmwarden_new_things_total[5m])"'
    assert repeated({"a.py": counter, "b.py": query}) == {"llmwarden_new_things": {"a.py", "b.py"}}
    assert repeated({"a.py": counter, "b.py": "X = 1"}) == {}
