"""Conditions, of check constraints and queries, whose SQL differs between the engines.

None of them is ever null: a check that comes out null admits the row.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from itertools import chain
from string import Formatter
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


class PerEngine(models.Func):
    """A condition that is a template of SQL for each engine."""

    output_field = models.BooleanField()
    conditional = True
    arity: int
    postgresql_template: str
    sqlite_template: str

    def as_postgresql(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        # SQLite's columns hold values of any type, of which its functions may know nothing.
        template = (
            f"({self.sqlite_template}) IS TRUE"
            if connection.vendor == "sqlite"
            else self.postgresql_template
        )
        parts = [compiler.compile(expression) for expression in self.get_source_expressions()]
        # A part that is used twice needs its parameters twice.
        places = [int(place) for _, place, _, _ in Formatter().parse(template) if place]
        params = [param for place in places for param in parts[place][1]]
        return template.format(*(sql for sql, _ in parts)), tuple(params)

    as_sqlite = as_postgresql


class AmountBelowLimit(PerEngine):
    """units × price lies below 10¹² in either direction."""

    arity = 2
    postgresql_template = "ABS({0} * {1}) < 1000000000000"
    # The product leaves 64 bits and becomes a float, so the very edge is left to the validator.
    sqlite_template = "ABS(CAST({0} AS REAL) * {1}) <= 1e30"


class AmountAtLeast(PerEngine):
    """units × price is at least an amount, which is given as text."""

    arity = 3
    postgresql_template = "{0} * {1} >= {2}"
    # A function of ours, since the product leaves 64 bits.
    sqlite_template = "amount_at_least({0}, {1}, {2})"


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


READABLE_DAYS = dt.date(1970, 1, 1), dt.date(9998, 12, 31)
_IN_RANGE = "{0} >= '1970-01-01' AND {0} < '9999-01-01'"
# Of each kind of column, on PostgreSQL and on SQLite. PostgreSQL's types admit infinity, other
# calendars and NaN, and SQLite's columns everything: instants are text there, such as
# 2026-11-10 12:00:00.123, and '+0 days' makes 30 February another day.
_READABLE = {
    "dates": (_IN_RANGE, f"{_IN_RANGE} AND date({{0}}, '+0 days') IS {{0}}"),
    "instants": (
        _IN_RANGE,
        (
            f"{_IN_RANGE} AND datetime(substr({{0}}, 1, 19), '+0 days') IS substr({{0}}, 1, 19)"
            " AND (length({0}) = 19 OR (substr({0}, 20, 1) = '.' AND length({0}) BETWEEN 21 AND 26"
            " AND substr({0}, 21) NOT GLOB '*[^0-9]*'))"
        ),
    ),
    "numbers": ("{0} <> 'NaN'", "typeof({0}) = 'integer'"),
    "integers": ("", "typeof({0}) = 'integer'"),
    "booleans": ("", "{0} IN (0, 1)"),
    "texts": ("", "typeof({0}) = 'text'"),
}


class Readable(models.Func):
    """Python can read these columns, given by kind (`_READABLE`), as far as they are not null.

    Dates and instants lie in the years 1970 to 9998, so that months can be reckoned with.
    """

    output_field = models.BooleanField()
    conditional = True

    def __init__(self, **columns: Sequence[str]) -> None:
        self._kinds = [kind for kind, names in columns.items() for _ in names]
        super().__init__(*chain.from_iterable(columns.values()))

    def as_postgresql(self, compiler: Any, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        engine = 1 if connection.vendor == "sqlite" else 0
        conditions, params = ["true"], []
        for kind, column in zip(self._kinds, self.get_source_expressions(), strict=True):
            if condition := _READABLE[kind][engine]:
                template = f"({{0}} IS NULL OR ({condition}) IS TRUE)"
                sql, column_params = compiler.compile(column)
                conditions.append(template.format(sql))
                params += [*column_params] * template.count("{0}")
        return f"({' AND '.join(conditions)})", params

    as_sqlite = as_postgresql


def readable(name: str, **columns: Sequence[str]) -> models.CheckConstraint:
    """Return the check of a table that Python can read its rows, given its columns by kind."""
    by_kind = dict(sorted(columns.items()))  # as migrations write them, or they would differ
    return models.CheckConstraint(name=name, condition=models.Q(Readable(**by_kind)))
