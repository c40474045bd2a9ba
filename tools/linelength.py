"""Fails for a line of a Markdown page that is longer than 120 columns: `python -m tools.linelength`.

Code blocks are left out: output and commands are shown as they are. So is a line that is one link, which cannot be wrapped.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
LONGEST: Final = 120
_LINK: Final = re.compile(r"\s*(?:[-*] )?(?:\[[^\]]*\]: ?|\[[^\]]*\]\()?<?https?://\S+")


def too_long(text: str) -> Iterator[tuple[int, int]]:
    """Yield number and length of each line of a page that is too long."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and len(line) > LONGEST and not _LINK.fullmatch(line):
            yield number, len(line)


def pages() -> list[Path]:
    """Return every page of the repository."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


def main() -> int:
    """Look at every page; returns the exit status."""
    found = [
        f"{page.relative_to(ROOT)}:{number}: {length} columns, at most {LONGEST}"
        for page in pages()
        for number, length in too_long(page.read_text(encoding="utf-8"))
    ]
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
