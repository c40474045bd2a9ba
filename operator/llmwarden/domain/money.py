"""Money as whole picodollars (1e-12 US dollars), to and from decimal text, exactly. No float anywhere."""

import re
from typing import Final

from llmwarden.errors import InvalidSpecError
from llmwarden.names import PICODOLLARS

DECIMALS: Final = 12
_TOKENS_PER_MILLION: Final = 10**6
_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]{0,17})(?:\.([0-9]{1,12}))?", re.ASCII)


def parse(text: str) -> int:
    """Return the picodollars of a decimal text such as "25.00".

    Raises InvalidSpecError unless it is digits, and at most 12 of them behind a point: no sign, exponent, blank or unit.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        message = f'{text!r} is not an amount in US dollars; write a decimal number such as "25.00"'
        raise InvalidSpecError(message)
    whole, fraction = match.group(1), match.group(2) or ""
    return int(whole) * PICODOLLARS + int(fraction.ljust(DECIMALS, "0"))


def parse_per_million(text: str) -> int:
    """Return the picodollars per token of a price in US dollars per million tokens.

    Raises InvalidSpecError where that is no whole number of picodollars: more than six digits behind the point.
    """
    per_token, rest = divmod(parse(text), _TOKENS_PER_MILLION)
    if rest:
        message = f"{text!r} per million tokens has more than 6 decimal places: round it"
        raise InvalidSpecError(message)
    return per_token


def to_decimal(picodollars: int, places: int = 2) -> str:
    """Return the exact decimal text, with at least `places` digits behind the point: 25 dollars are "25.00"."""
    sign = "-" if picodollars < 0 else ""
    whole, fraction = divmod(abs(picodollars), PICODOLLARS)
    digits = f"{fraction:012d}".rstrip("0").ljust(places, "0")
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def rounded(picodollars: int, places: int) -> str:
    """Return decimal text with exactly `places` (0 to 12) digits behind the point, half away from zero."""
    sign = "-" if picodollars < 0 else ""
    unit = 10 ** (DECIMALS - places)
    units = (abs(picodollars) + unit // 2) // unit
    whole, fraction = divmod(units, 10**places)
    text = f"{whole}.{fraction:0{places}d}" if places else str(whole)
    return f"{sign}{text}" if units else text


def human(picodollars: int) -> str:
    """Return what a person reads: "$12.30", "$0.00042", "$1,234.50", "-$3.00".

    From one cent on: cents. Below: two significant digits, so that the cost of one call is not "$0.00". Zero is "$0.00".
    """
    sign = "-" if picodollars < 0 else ""
    size = abs(picodollars)
    cent = PICODOLLARS // 100
    if size == 0 or size >= cent - cent // 200:  # what rounds to a cent or more
        whole, _, fraction = rounded(size, 2).partition(".")
        return f"{sign}${int(whole):,}.{fraction}"
    places = min(DECIMALS, DECIMALS - len(str(size)) + 2)
    return f"{sign}${rounded(size, places).rstrip('0')}"
