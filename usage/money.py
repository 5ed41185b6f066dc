"""Exact arithmetic with amounts of money: no float, and no digit lost in silence."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import cache

# Decimal's default of 28 digits would silently round the product of two 18-digit numbers.
EXACT = Context(prec=60)


def exact_amount(units: Decimal, price_per_unit: Decimal) -> Decimal:
    """Return units × price, digit for digit."""
    return EXACT.multiply(units, price_per_unit)


def exact_sum(numbers: Iterable[Decimal]) -> Decimal:
    """Return the sum of the numbers, digit for digit."""
    total = Decimal(0)
    for number in numbers:
        total = EXACT.add(total, number)
    return total


def round_amount(amount: Decimal, minor_unit_digits: int) -> Decimal:
    """Return an amount rounded half away from zero to a currency's minor unit."""
    return amount.quantize(_quantum(minor_unit_digits), ROUND_HALF_UP, context=EXACT)


@cache
def _quantum(digits: int) -> Decimal:
    return Decimal(1).scaleb(-digits)


def plain(number: Decimal) -> str:
    """Return a decimal without exponent and trailing zeros, such as "0.05" or "58"."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
