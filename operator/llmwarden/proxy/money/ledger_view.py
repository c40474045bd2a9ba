"""What the ledger has told this proxy, and how to ask it for more. `reporter` writes it, every call reads it."""

from collections.abc import Awaitable, Callable

import msgspec

from llmwarden.contracts.ledger import Config
from llmwarden.proxy.clock import LedgerClock
from llmwarden.proxy.money.gate import Short
from llmwarden.proxy.money.prices import PriceBook


class LedgerView:
    """The ledger's clock, configuration and prices. Without a ledger the four questions are None.

    `ask_price` returns when the ledger has told a model's price, or cannot be waited for; `ask_price_soon` asks in the background;
    `ask_lease` returns at the next grant, or after so many seconds; `await_config` returns when there is a configuration, or after so many
    seconds, or at once where the ledger has not answered for a while.
    """

    def __init__(self) -> None:
        self.clock = LedgerClock()
        self.prices = PriceBook()
        self.config: Config | None = None
        self.keyless: frozenset[str] = (
            frozenset()
        )  # services that are gone: the platform's key is not for their pods any more
        self.ask_price: Callable[[str, str], Awaitable[None]] | None = None
        self.ask_price_soon: Callable[[str, str], None] | None = None
        self.ask_lease: Callable[[Short, float], Awaitable[None]] | None = None
        self.await_config: Callable[[float], Awaitable[None]] | None = None

    def take(self, config: Config) -> None:
        """Take a configuration."""
        self.config = config
        self.keyless = frozenset(
            [name for name, service in config.services.items() if service.departed or service.state == "Released"]
        )

    def price_generation(self, service: str) -> str:
        """The generation that a price must have to be fresh; "" where there is no configuration."""
        config = self.config.services.get(service) if self.config is not None else None
        return config.price_generation if config is not None else ""


def decode_config(data: bytes) -> Config:
    """Read the ledger's configuration. Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=Config)
