"""Aggregates that sum exact decimals without rounding on every engine.

PostgreSQL's SUM() is exact; there a row that is not a number, which no check admits, is left out.
SQLite's SUM() fails beyond 64 bits, so `usage.database.sqlite` brings aggregates of its own, whose
results are text and cannot be filtered or ordered by.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from usage.database.fields import ExactDecimalField


class _Exact(models.Aggregate):
    """A sum that is exact wherever it ends."""

    function = "SUM"
    template = "%(function)s(NULLIF(%(expressions)s, 'NaN'))"
    sqlite_function: str

    def as_sqlite(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        return super().as_sql(
            compiler,
            connection,
            function=self.sqlite_function,
            template="%(function)s(%(expressions)s)",
            arg_joiner=", ",
            **context,
        )

    def get_db_converters(self, connection: BaseDatabaseWrapper) -> list[Callable[..., Any]]:
        if connection.vendor != "sqlite":
            return super().get_db_converters(connection)
        return [self._from_text]

    def _from_text(self, value: str | None, expression: Any, connection: Any) -> Decimal | None:
        field = cast("ExactDecimalField", self.output_field)
        return None if value is None else field.unscaled(int(value))


class ExactSum(_Exact):
    """The exact sum of an ExactDecimalField."""

    name = "ExactSum"
    sqlite_function = "exact_sum"

    def __init__(self, expression: Any, **extra: Any) -> None:
        super().__init__(expression, **extra)


class AmountSum(_Exact):
    """The exact sum of units × price over rows, given the names of the two columns."""

    name = "AmountSum"
    sqlite_function = "amount_sum"
    arity = 2
    arg_joiner = " * "

    def __init__(self, units: str, price_per_unit: str) -> None:
        super().__init__(
            units, price_per_unit, output_field=ExactDecimalField(max_digits=60, decimal_places=18)
        )

    def get_db_converters(self, connection: BaseDatabaseWrapper) -> list[Callable[..., Any]]:
        # PostgreSQL's product has the digits of both columns, so it needs no check of its scale.
        return super().get_db_converters(connection) if connection.vendor == "sqlite" else []
