"""Conditions of check constraints whose SQL differs between the engines."""

from __future__ import annotations

from string import Formatter
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


class PerEngine(models.Func):
    """A condition for check constraints whose SQL differs between the engines."""

    output_field = models.BooleanField()
    conditional = True
    arity: int
    postgresql_template: str
    sqlite_template: str

    def as_postgresql(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        return self._as(self.postgresql_template, compiler, context)

    def as_sqlite(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        return self._as(self.sqlite_template, compiler, context)

    def _as(self, template: str, compiler: Any, context: dict[str, Any]) -> Any:
        parts = [compiler.compile(expression) for expression in self.get_source_expressions()]
        # A part that stands in the template twice needs its parameters twice.
        places = [int(place) for _, place, _, _ in Formatter().parse(template) if place]
        params = [param for place in places for param in parts[place][1]]
        return template.format(*(sql for sql, _ in parts)), tuple(params)


class AmountBelowLimit(PerEngine):
    """units × price lies below 10¹² in either direction."""

    arity = 2
    postgresql_template = "ABS({0} * {1}) < 1000000000000"
    # The product leaves 64 bits and becomes a float, so the very edge is left to the validator.
    sqlite_template = "ABS(CAST({0} AS REAL) * {1}) <= 1e30"


class PrintableAscii(PerEngine):
    """1 to 128 printable ASCII characters without spaces."""

    arity = 1
    postgresql_template = "({0} ~ '^[!-~]+$' AND length({0}) <= 128)"
    sqlite_template = "({0} <> '' AND {0} NOT GLOB '*[^!-~]*' AND length({0}) <= 128)"


class CurrencyCode(PerEngine):
    """Three capital letters, as ISO 4217 has them."""

    arity = 1
    postgresql_template = "{0} ~ '^[A-Z]{{3}}$'"
    sqlite_template = "{0} GLOB '[A-Z][A-Z][A-Z]'"


class CleanText(PerEngine):
    """Not empty, without ASCII control characters, and no spaces around it."""

    arity = 1
    postgresql_template = "({0} <> '' AND {0} = btrim({0}) AND {0} !~ '[\\x01-\\x1f\\x7f]')"
    sqlite_template = (
        "({0} <> '' AND {0} = trim({0})"
        " AND {0} NOT GLOB '*[' || char(1) || '-' || char(31) || char(127) || ']*')"
    )


class FirstDayOfMonth(PerEngine):
    """The date is the first of its month."""

    arity = 1
    postgresql_template = "EXTRACT(day FROM {0}) = 1"
    sqlite_template = "substr({0}, 9) = '01'"


class OccurredInTime(PerEngine):
    """Usage occurred at most 5 minutes after, and 366 days before, it was recorded."""

    arity = 2
    postgresql_template = (
        "({0} <= {1} + interval '5 minutes' AND {0} >= {1} - interval '8784 hours')"
    )
    # Days as floats: exact to well below the millisecond that is added.
    sqlite_template = "(julianday({0}) - julianday({1}) BETWEEN -366 - 1e-8 AND 5.0 / 1440 + 1e-8)"
