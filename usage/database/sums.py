"""Aggregates that sum exact decimals without rounding on every engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from usage.database.fields import ExactDecimalField

_SQLITE_HALF = 10**9


class ExactSum(models.Aggregate):
    """The exact sum of an ExactDecimalField, wherever it ends.

    SQLite's SUM() fails beyond 64 bits, so there the upper and the lower part of each number
    are summed apart and put together in Python; the result cannot be filtered or ordered by.
    """

    function = "SUM"
    name = "ExactSum"

    def __init__(self, expression: Any, **extra: Any) -> None:
        super().__init__(expression, **extra)

    def as_sqlite(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        return super().as_sql(
            compiler,
            connection,
            template=(
                f"(SUM(%(expressions)s / {_SQLITE_HALF}) || ':' || "
                f"SUM(%(expressions)s %%%% {_SQLITE_HALF}))"
            ),
            **context,
        )

    def get_db_converters(self, connection: BaseDatabaseWrapper) -> list[Callable[..., Any]]:
        if connection.vendor != "sqlite":
            return super().get_db_converters(connection)
        return [self._join_halves]

    def _join_halves(self, value: str | None, expression: Any, connection: Any) -> Decimal | None:
        if value is None:
            return None
        upper, lower = (int(half) for half in value.split(":"))
        field = cast("ExactDecimalField", self.output_field)
        return field.unscaled(upper * _SQLITE_HALF + lower)


class AmountSum(models.Aggregate):
    """The exact sum of units × price over rows, given the names of the two columns.

    SQLite computes in 64 bits: there the numbers are cut into halves, and their four products
    are summed, in halves again, and put together in Python; that cannot be filtered or ordered by.
    """

    function = "SUM"
    name = "AmountSum"
    # A row that is not a number, which no check admits, would make the whole sum none.
    template = "%(function)s(%(distinct)sNULLIF(%(expressions)s, 'NaN'))"
    arity = 2
    arg_joiner = " * "

    def __init__(self, units: str, price_per_unit: str) -> None:
        super().__init__(
            units, price_per_unit, output_field=ExactDecimalField(max_digits=60, decimal_places=18)
        )

    def as_sqlite(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        units, price = (compiler.compile(column)[0] for column in self.source_expressions)
        halves = [
            (f"({name} / {_SQLITE_HALF})", f"({name} % {_SQLITE_HALF})") for name in (units, price)
        ]
        products = [f"{unit} * {cost}" for unit, cost in itertools.product(*halves)]
        sums = [
            f"SUM({product} {operator} {_SQLITE_HALF})"
            for product in products
            for operator in ("/", "%")
        ]
        return "(" + " || ':' || ".join(sums).replace("%", "%%") + ")", ()

    def get_db_converters(self, connection: BaseDatabaseWrapper) -> list[Callable[..., Any]]:
        return [self._join_products] if connection.vendor == "sqlite" else []

    def _join_products(self, value: str | None, expression: Any, connection: Any) -> Any:
        if value is None:
            return None
        halves = [int(half) for half in value.split(":")]
        products = [
            upper * _SQLITE_HALF + lower
            for upper, lower in zip(halves[::2], halves[1::2], strict=True)
        ]
        (both, units, price, neither), half = products, _SQLITE_HALF
        number = (both * half + units + price) * half + neither
        return cast("ExactDecimalField", self.output_field).unscaled(number)
