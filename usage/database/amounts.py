"""A condition on the exact amount of a record, which no column holds."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from usage.money import EXACT

# SQLite keeps units and prices as whole numbers, scaled by their 6 and 12 decimal places.
_PLACES_OF_PRODUCT = 6 + 12


class AmountAtLeast(models.Func):
    """units × price is at least an amount."""

    output_field = models.BooleanField()
    arity = 2

    def __init__(self, amount: Decimal) -> None:
        super().__init__(models.F("units"), models.F("price_per_unit"))
        self.amount = amount

    def as_sql(  # type: ignore[override]  # takes no template
        self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any
    ) -> tuple[str, list[Any]]:
        units, price = (compiler.compile(column)[0] for column in self.source_expressions)
        if connection.vendor == "sqlite":
            return f"amount_at_least({units}, {price}, %s)", [str(self.amount)]
        return f"({units} * {price} >= %s)", [self.amount]


def amount_at_least(units: int, price: int, amount: str) -> bool:
    """Compare the product of two scaled numbers, which would leave 64 bits; for SQL on SQLite."""
    return EXACT.scaleb(Decimal(units * price), -_PLACES_OF_PRODUCT) >= Decimal(amount)
