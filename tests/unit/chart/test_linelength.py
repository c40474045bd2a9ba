"""Pages are read in terminals and in reviews: their lines are short, but for code and links."""

import pytest

from tools import linelength

LONG = "word " * 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short\n", []),
        (f"short\n{LONG}\n", [(2, 150)]),
        (f"```\n{LONG}\n```\n", []),
        (f"```\n{LONG}\n```\n{LONG}\n", [(4, 150)]),
        (f"| {LONG} | b |\n", [(1, 158)]),
        ("https://example.com/" + "a" * 120, []),
        ("[a]: https://example.com/" + "a" * 120, []),
        ("see https://example.com/" + "a" * 120, [(1, 144)]),
    ],
)
def test_lines_that_are_too_long(text: str, expected: list[tuple[int, int]]) -> None:
    assert list(linelength.too_long(text)) == expected


def test_every_page_is_looked_at() -> None:
    names = {page.name for page in linelength.pages()}
    assert {"README.md", "ARCHITECTURE.md", "money.md", "LLMSpendHigh.md"} <= names
