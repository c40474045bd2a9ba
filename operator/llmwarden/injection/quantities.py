"""Kubernetes' quantities (`250m`, `64Mi`, `1e3`) as exact numbers, in the unit of the resource: cores, bytes, pieces."""

import math
import re
from fractions import Fraction
from typing import Final

_QUANTITY: Final = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))([eE][+-]?[0-9]{1,3}|[A-Za-z]{0,2})", re.ASCII)
_SUFFIXES: Final = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    **{letter: Fraction(1000 ** (power + 1)) for power, letter in enumerate("kMGTPE")},
    **{f"{letter}i": Fraction(1024 ** (power + 1)) for power, letter in enumerate("KMGTPE")},
}
_LONGEST: Final = 64  # characters


def parse(text: object) -> Fraction | None:
    """Read a quantity; None where it is none (the API server refuses such a pod anyway)."""
    written = str(text)
    match = _QUANTITY.fullmatch(written) if len(written) <= _LONGEST else None
    if match is None:
        return None
    number, suffix = match.groups()
    if suffix[:1] in {"e", "E"} and len(suffix) > 1:
        return Fraction(number) * Fraction(10) ** int(suffix[1:])
    scale = _SUFFIXES.get(suffix)
    return Fraction(number) * scale if scale is not None else None


def write(value: Fraction) -> str:
    """Write a quantity, in the largest unit that is exact; finer than a thousandth is rounded up."""
    if value.denominator != 1:
        return f"{math.ceil(value * 1000)}m"
    whole = value.numerator
    for suffix in ("Gi", "Mi", "Ki"):
        if whole and whole % _SUFFIXES[suffix].numerator == 0:
            return f"{whole // _SUFFIXES[suffix].numerator}{suffix}"
    return str(whole)
