"""Audit entries as JSON lines, on a logger of their own: `llmwarden.audit`, one object a line, to standard output.

The ledger writes its entries here, and the webhook those about pods that it leaves alone. Fields are those of `contracts.audit.Entry`.
"""

import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

LOGGER: Final = logging.getLogger("llmwarden.audit")


def start() -> None:
    """Let lines go to standard output as they are, apart from our other logs."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.handlers = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def write(entry: Mapping[str, Any]) -> None:
    """Write one entry."""
    LOGGER.info("%s", msgspec.json.encode(entry).decode())
