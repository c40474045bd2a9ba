"""What tokens cost. Apart from `prices`, so that a sidecar can use it without the custom resources' models.

Token kinds (`Tokens` in `contracts/ledger.py` names them): `input` is all of it, cached included; `cached_input` is the part of `input` that
was read from a cache, `cache_write` the part that was written to one, `cache_write_1h` the part of `cache_write` that is kept for an hour;
`output` is all of it, `reasoning` included; `input_audio` and `output_audio` are parts of `input` and `output`. A token budget counts
`input + output`. A cost is each part at its own price, the rest of `input` and `output` at theirs, and the price of the request. A kind
without a price of its own costs what the kind costs that it is a part of. A price has variants by context length and service tier.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from llmwarden.contracts.ledger import Picodollars, PriceVariant, Tokens

ORDINARY: Final = frozenset({"", "auto", "default", "standard"})
"""Service tiers that mean none: what providers answer for a call at the plain price."""


class Rates(msgspec.Struct, frozen=True):
    """A price whole: the plain one, and what applies instead to long inputs and to service tiers."""

    picodollars: Picodollars
    variants: tuple[PriceVariant, ...] = ()

    def at(self, context: int, tier: str) -> Picodollars | None:
        """Return what applies to calls of at least `context` input tokens in a tier; None where the tier has no price."""
        ordinary = tier in ORDINARY
        wanted = "" if ordinary else tier
        best: PriceVariant | None = None
        for variant in self.variants:
            if variant.tier == wanted and variant.context <= context and (not best or variant.context > best.context):
                best = variant
        if best is not None:
            return best.picodollars
        return self.picodollars if ordinary else None


def most_expensive(rates: Rates) -> Picodollars:
    """Return the highest price of each kind over all contexts and tiers: the bound for a call in a tier without a price."""
    prices = [rates.picodollars, *(variant.picodollars for variant in rates.variants)]
    return Picodollars(
        input=max(price.input for price in prices),
        output=max(price.output for price in prices),
        cached_input=max(price.cached_input for price in prices),
        cache_write=max(price.cache_write for price in prices),
        request=max(price.request for price in prices),
        cache_write_1h=max(
            price.cache_write if price.cache_write_1h is None else price.cache_write_1h for price in prices
        ),
        input_audio=max(price.input if price.input_audio is None else price.input_audio for price in prices),
        reasoning=max(price.output if price.reasoning is None else price.reasoning for price in prices),
        output_audio=max(price.output if price.output_audio is None else price.output_audio for price in prices),
    )


def cost(tokens: Tokens, price: Picodollars, *, requests: int) -> int:
    """Return picodollars: each part of the input and of the output at its own price, the plain rest at theirs.

    A kind without a price of its own costs what the kind costs that it is a part of: see the module.
    A report whose parts exceed the whole is charged its parts: a plain rest is never negative.
    """
    hour = tokens.cache_write_1h
    spent = (
        max(0, tokens.input - tokens.cached_input - tokens.cache_write - tokens.input_audio) * price.input
        + tokens.cached_input * price.cached_input
        + max(0, tokens.cache_write - hour) * price.cache_write
        + max(0, tokens.output - tokens.reasoning - tokens.output_audio) * price.output
        + requests * price.request
    )
    if hour:
        spent += hour * (price.cache_write if price.cache_write_1h is None else price.cache_write_1h)
    if tokens.input_audio:
        spent += tokens.input_audio * (price.input if price.input_audio is None else price.input_audio)
    if tokens.reasoning:
        spent += tokens.reasoning * (price.output if price.reasoning is None else price.reasoning)
    if tokens.output_audio:
        spent += tokens.output_audio * (price.output if price.output_audio is None else price.output_audio)
    return spent


def counted(tokens: Tokens) -> int:
    """Return what a token budget counts: input (cached included) plus output (reasoning included)."""
    return tokens.input + tokens.output


def bounds(prices: Iterable[Rates]) -> tuple[int, ...]:
    """Return the input sizes, rising, from which some of these prices changes: `Config.context_bounds`."""
    return tuple(sorted({variant.context for rates in prices for variant in rates.variants if variant.context > 0}))
