"""How providers' APIs are understood: each module here that has a `DIALECT` is one (`base.Dialect`)."""

import importlib
import pkgutil

from llmwarden.proxy.dialects.base import Dialect


def found() -> tuple[Dialect, ...]:
    """All dialects, OpenAI's first: it is what an unknown server most likely speaks."""
    dialects: list[Dialect] = []
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        dialect = getattr(importlib.import_module(f"{__name__}.{info.name}"), "DIALECT", None)
        if dialect is not None:
            dialects.append(dialect)
    return tuple(sorted(dialects, key=lambda dialect: dialect.name != "openai"))


def ordered(dialects: tuple[Dialect, ...], backend: str) -> tuple[Dialect, ...]:
    """A backend's own dialects first, then the others: many servers speak several, and none may be a way around a budget."""
    return tuple(sorted(dialects, key=lambda dialect: backend not in dialect.backends))
