"""What one minor version promises to the next, as files: a folder for each version, a file for each document of a contract.

The present version's files are what is written now, byte for byte (`python -m tests.run golden --update` writes them, also a new version's
first). Earlier versions' files are never changed: what was written must be read, and what was there must stay there.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from llmwarden import __version__

HERE = Path(__file__).parent
PRESENT = ".".join(__version__.split(".")[:2])


def versions(document: str) -> list[Path]:
    """A document as each version wrote it."""
    return sorted(HERE.glob(f"[0-9]*/{document}.json"))


def lost(old: Any, new: Any, at: str = "") -> list[str]:
    """Where a reader of the old would miss something in the new: it ignores only what it does not know."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key, value in old.items()
            for found in (lost(value, new[key], f"{at}.{key}") if key in new else [f"{at}.{key} is gone"])
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            found for index, (a, b) in enumerate(zip(old, new, strict=True)) for found in lost(a, b, f"{at}[{index}]")
        ]
    return [] if old == new and type(old) is type(new) else [f"{at} was {old!r} and is {new!r}"]


def unsaid(value: Any, at: str = "") -> list[str]:
    """Fields of an example that have their defaults: they may be missing in its JSON, and then nothing guards them."""
    if isinstance(value, msgspec.Struct):
        found = []
        for field in msgspec.structs.fields(value):
            present, where = getattr(value, field.name), f"{at}.{field.name}"
            found += [where] if present == field.default else unsaid(present, where)
        return found
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in unsaid(item, f"{at}[{key}]")]
    if isinstance(value, tuple):
        return [found for index, item in enumerate(value) for found in unsaid(item, f"{at}[{index}]")]
    return []


def check(golden: Callable[[Path, str], None], document: str, text: str) -> None:
    """What is written now: with all that any version's file has (`--update` changes nothing of that), and as the present one's has it."""
    for path in versions(document):
        assert lost(json.loads(path.read_text()), json.loads(text)) == [], path
    golden(HERE / PRESENT / f"{document}.json", text + "\n")


def read(path: Path, found: Any, present: Any, document: Any = None) -> None:
    """What a version's file was read as, `found`: nothing of it was passed over, and the present version's is the example itself.

    `document` is how that is written, where it is not by msgspec alone.
    """
    text = msgspec.json.encode(found if document is None else document)
    assert lost(json.loads(path.read_text()), json.loads(text)) == []
    assert path.parent.name != PRESENT or found == present
