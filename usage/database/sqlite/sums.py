"""Exact sums for SQLite, whose own SUM() fails beyond 64 bits: aggregates in Python's integers.

Their results are text, since SQLite has no wider number. Numbers are scaled integers.
"""

from __future__ import annotations

import sqlite3
from typing import Any, cast


class _Sum:
    """What both aggregates share; without a value the sum is null, as SUM()'s is."""

    total: int | None = None

    def finalize(self) -> str | None:
        return None if self.total is None else str(self.total)


class ExactSum(_Sum):
    """The sum of a column."""

    def step(self, number: int | None) -> None:
        if number is not None:
            self.total = number + (self.total or 0)


class AmountSum(_Sum):
    """The sum of the products of two columns."""

    def step(self, units: int | None, price: int | None) -> None:
        if units is not None and price is not None:
            self.total = units * price + (self.total or 0)


def register(connection: sqlite3.Connection) -> None:
    """Let SQL call the aggregates on this connection."""
    connection.create_aggregate("exact_sum", 1, cast("Any", ExactSum))
    connection.create_aggregate("amount_sum", 2, cast("Any", AmountSum))
