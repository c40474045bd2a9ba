"""Guards of the repository's layout."""

import operator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_operator_is_a_source_root_and_never_a_package() -> None:
    # A package of that name would shadow the standard library's `operator` and break everything.
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert operator.add(1, 1) == 2
