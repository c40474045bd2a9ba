"""Options and fixtures that every tier has."""

import difflib
from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update` rewrites golden files for review instead of comparing with them."""
    parser.addoption("--update", action="store_true", help="rewrite golden files instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Return `check(path, text)`: fails with a diff where the file differs; with `--update` writes it."""

    def check(path: Path, text: str) -> None:
        if request.config.getoption("--update"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        if not path.exists():
            pytest.fail(f"{path} is missing; write it with: python -m tests.run golden --update")
        expected = path.read_text()
        if text != expected:
            diff = difflib.unified_diff(expected.splitlines(), text.splitlines(), "golden", "now", lineterm="", n=2)
            pytest.fail(f"{path.name} changed (--update rewrites it):\n" + "\n".join(list(diff)[:80]), pytrace=False)

    return check
