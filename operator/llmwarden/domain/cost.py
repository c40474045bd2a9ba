"""What tokens cost. Apart from `prices`, so that a sidecar can use it without the custom resources' models."""

from llmwarden.wire import Picodollars, Tokens


def cost(tokens: Tokens, price: Picodollars, *, requests: int) -> int:
    """Return picodollars.

    (input - cached_input - cache_write) * p.input + cached_input * p.cached_input + cache_write * p.cache_write
    + output * p.output + requests * p.request; reasoning is in output already (operator/ARCHITECTURE.md, "Keys").
    A report whose parts exceed the whole is charged its parts: the plain rest is never negative.
    """
    plain = max(0, tokens.input - tokens.cached_input - tokens.cache_write)
    return (
        plain * price.input
        + tokens.cached_input * price.cached_input
        + tokens.cache_write * price.cache_write
        + tokens.output * price.output
        + requests * price.request
    )


def counted(tokens: Tokens) -> int:
    """Return what a token budget counts: input (cached included) plus output (reasoning included)."""
    return tokens.input + tokens.output
