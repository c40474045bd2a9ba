"""What models cost on one route: which model a call is charged as, and its price as far as the ledger has told it.

A route to a deployment (Azure OpenAI, SageMaker) names no model. There, unless the deployment has a price of its own, a call is charged as the
model that answers; which one that was is remembered for the next call.
"""

from typing import Final

from llmwarden.proxy.money.ledger_view import LedgerView
from llmwarden.proxy.money.prices import Quote

_ALIASES: Final = 256  # deployments whose model is remembered


class Tariff:
    """Prices by model. `alias` says that a name is a deployment's, not a model's."""

    def __init__(self, ledger: LedgerView, service: str) -> None:
        self._ledger = ledger
        self._service = service
        self._models: dict[str, str] = {}  # the model that answers under a deployment's name

    def answers(self, deployment: str, model: str) -> None:
        """Note which model answers under a deployment's name."""
        if deployment in self._models or len(self._models) < _ALIASES:
            self._models[deployment] = model

    def charged_model(self, name: str, answered: str, *, alias: bool) -> str:
        """The model that a call is charged as: the one that it asked for, as its price was found by that name."""
        if alias and not self._has_price(name):
            return answered or self._models.get(name) or name
        return name or answered

    def quote(self, name: str, answered: str, *, alias: bool) -> Quote | None:
        """The price of a call; asked for in the background where it is not there or not fresh."""
        if not name:
            return None
        quote = self._quote(name)
        return self._quote(self.charged_model(name, answered, alias=alias)) if alias else quote

    def last(self, name: str, *, alias: bool) -> Quote | None:
        """The last quote for a call that has no answer yet."""
        return self._ledger.prices.last(self._service, self._priced_as(name, alias=alias))

    def has_price(self, name: str, *, alias: bool) -> bool | None:
        """Whether a call that has no answer yet has a price; None while the ledger has not said.

        A price is believed until the next is told. That there is none is not believed once prices have changed.
        """
        model = self._priced_as(name, alias=alias)
        quote = self._fresh(model)
        if quote is not None:
            return quote.price_id is not None
        last = self._ledger.prices.last(self._service, model)
        return True if last is not None and last.price_id is not None else None

    def _quote(self, model: str) -> Quote | None:
        quote = self._fresh(model)
        if quote is None:
            ledger = self._ledger
            if ledger.ask_price_soon is not None:
                ledger.ask_price_soon(self._service, model)
            quote = ledger.prices.last(self._service, model)
        return quote

    def _fresh(self, model: str) -> Quote | None:
        # By the present configuration, not the call's: while a call waits for its price, another may come.
        ledger, service = self._ledger, self._service
        return ledger.prices.get(service, model, ledger.price_generation(service), ledger.clock())

    def _has_price(self, model: str) -> bool:
        quote = self._fresh(model) or self._ledger.prices.last(self._service, model)
        return quote is not None and quote.price_id is not None

    def _priced_as(self, name: str, *, alias: bool) -> str:
        if alias and not self._has_price(name):
            return self._models.get(name, name)
        return name
