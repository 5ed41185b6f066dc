"""Exact decimals: every accepted value goes to the wire digit for digit, or is refused."""

from __future__ import annotations

import re
from contextlib import suppress
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, Inexact
from operator import index
from typing import SupportsIndex

Number = SupportsIndex | str | Decimal | float

_PLAIN = re.compile(r"[0-9]+(?:\.[0-9]+)?")
# Decimal's default of 28 digits silently rounds a product of 18 and 18 digits. Only methods of
# this context are called; it is never set as the thread's: a finalizer that did so too, in the
# middle of an operation, has crashed Python 3.11.
_EXACT = Context(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[Inexact])


def exact(value: Number, *, whole: int, places: int) -> Decimal:
    """The value in plain notation: ``whole`` digits before and ``places`` after the point at most.

    Trailing zeros do not count. A float counts as the decimal Python prints for it.
    Raises ValueError with a clause that names the fault.
    """
    number = _as_decimal(value)
    if not number.is_finite():
        raise ValueError("is not a number")
    if number.is_zero():
        return Decimal(0)
    if number.is_signed():
        raise ValueError("is negative")
    if number.adjusted() >= whole:
        raise ValueError(f"has more than {whole} digits before the point")
    try:
        number = _EXACT.quantize(number, Decimal((0, (1,), -places)))
    except Inexact:
        printed = f" (Python prints {float.__repr__(value)})" if isinstance(value, float) else ""
        raise ValueError(f"has more than {places} digits after the point{printed}") from None
    integer = int(number)
    # normalize() would give 1000 as 1E+3.
    return Decimal(integer) if integer == number else _EXACT.normalize(number)


def product(one: Decimal, other: Decimal) -> Decimal:
    """The exact product; raises decimal.Inexact rather than round at 60 digits."""
    return _EXACT.multiply(one, other)


def _as_decimal(value: Number) -> Decimal:
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        raise ValueError('is not written in plain digits such as "58" or "0.05"')
    if isinstance(value, float):
        # Not repr(): subclasses such as numpy's print their own name around the digits.
        return Decimal(float.__repr__(value))
    if isinstance(value, str | Decimal):
        return Decimal(value)
    return Decimal(as_int(value, "an int, str, Decimal or float"))


def as_int(value: object, expected: str) -> int:
    """An int, also from numpy's and other kinds (PEP 357); raises ValueError for anything else."""
    if type(value) is int:
        return value
    if not isinstance(value, bool):
        with suppress(TypeError):  # it has no __index__
            return int(index(value))  # type: ignore[arg-type]
    raise ValueError(f"is a {type(value).__name__}, expected {expected}")
