"""A difference, and the numbers in its text."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from usage.money import plain


class Difference(NamedTuple):
    """What does not agree, and by how much; the amount is in the bill's currency, exact."""

    bill_id: int | None  # None if it is about the sums over all bills
    invariant: str
    detail: str
    units: Decimal = Decimal(0)
    amount: Decimal = Decimal(0)

    def __str__(self) -> str:
        about = "all bills" if self.bill_id is None else f"bill {self.bill_id}"
        return f"{about}: {self.invariant}: {self.detail}"


def signed(number: Decimal) -> str:
    """Return a number like `plain`, with its sign."""
    text = plain(number)
    return text if text.startswith("-") else f"+{text}"


def counted(number: Decimal | int, noun: str) -> str:
    """Return a number with its noun, in the plural if there is not one."""
    return f"{plain(Decimal(number))} {noun}{'' if number == 1 else 's'}"
