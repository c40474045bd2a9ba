"""What a proxy starts with after a restart: its last configuration and prices, saved beside the journal.

A restart while the ledger is down must not open a budget, nor refuse calls because their price is not there yet. Only models that have a
price are saved, and no more than `MOST_PRICES`: names of models come from outside.
"""

from pathlib import Path
from typing import Final

import msgspec

from llmwarden.contracts.ledger import Config, Price
from llmwarden.proxy.money.ledger_view import decode_config

MOST_PRICES: Final = 200
_CONFIG: Final = "config.json"
_PRICES: Final = "prices.json"


class SavedPrice(msgspec.Struct, frozen=True):
    """The ledger's answer for a model of a service, and its generation of prices."""

    service: str
    model: str
    generation: str
    price: Price


class Saved:
    """The two files of one proxy. Reading never raises: a file that is missing or cannot be read counts as empty."""

    def __init__(self, directory: Path) -> None:
        self._config = directory / _CONFIG
        self._prices = directory / _PRICES

    def config(self) -> Config | None:
        """The last configuration."""
        try:
            return decode_config(self._config.read_bytes())
        except (OSError, msgspec.DecodeError):
            return None

    def prices(self) -> list[SavedPrice]:
        """The saved prices."""
        try:
            return msgspec.json.decode(self._prices.read_bytes(), type=list[SavedPrice])
        except (OSError, msgspec.DecodeError):
            return []

    def save_config(self, data: bytes) -> None:
        """Replace the configuration, as the ledger sent it. Raises OSError."""
        _replace(self._config, data)

    def save_prices(self, prices: list[SavedPrice]) -> None:
        """Replace the prices. Raises OSError."""
        _replace(self._prices, msgspec.json.encode(prices))


def _replace(path: Path, data: bytes) -> None:
    """All or nothing: a process that is killed in between leaves the file as it was."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.replace(path)
