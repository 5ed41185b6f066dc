"""Django's SQLite backend, with fair waiting for the one write lock, and with exact sums.

SQLite's own busy handler asks less and less often, ten times a second in the end. Among writers
that hardly pause, those that have waited longest then find the file free least often. So a
connection of ours asks again every few milliseconds, for as long as the option `timeout` says.

SQLite's own SUM() fails beyond 64 bits. The aggregates here add Python's integers, which are scaled
numbers; their results are text, since SQLite has no wider number.
"""

from __future__ import annotations

import random
import sqlite3
import time
from decimal import Decimal
from typing import Any, cast

from django.db.backends.sqlite3 import base

from usage.database.names import casefold
from usage.money import EXACT

# Units and prices are whole numbers, scaled by their 6 and 12 decimal places.
_PLACES_OF_AMOUNT = 6 + 12
_LONGEST_PAUSE_SECONDS = 0.004


class DatabaseWrapper(base.DatabaseWrapper):
    """Waits for up to `timeout` seconds before it raises "database is locked"."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return a connection without SQLite's own busy handler."""
        connection = super().get_new_connection(conn_params)
        connection.execute("PRAGMA busy_timeout = 0")
        connection.create_aggregate("exact_sum", 1, cast("Any", _ExactSum))
        connection.create_aggregate("amount_sum", 2, cast("Any", _AmountSum))
        connection.create_function("casefold", 1, casefold, deterministic=True)
        connection.create_function("amount_at_least", 3, _amount_at_least, deterministic=True)
        return connection

    def create_cursor(self, name: str | None = None) -> Any:
        """Return a cursor whose statements wait for the write lock.

        Inside an atomic block none has to: the transaction began IMMEDIATE, with the lock.
        """
        if self.in_atomic_block:
            return super().create_cursor(name)
        cursor = self.connection.cursor(factory=_WaitingCursor)
        cursor.patience = self.settings_dict["OPTIONS"]["timeout"]
        return cursor


class _WaitingCursor(base.SQLiteCursorWrapper):
    patience: float

    def execute(self, query: str, params: Any = None) -> Any:
        give_up = time.monotonic() + self.patience
        while True:
            try:
                return super().execute(query, params)
            except sqlite3.OperationalError as error:
                # BUSY alone, for which SQLite's handler waits too: its extended codes never end
                # by waiting.
                code = getattr(error, "sqlite_errorcode", 0)
                if code != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                    raise
            time.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311 - keeps no secret


def _amount_at_least(units: int, price: int, amount: str) -> bool:
    return EXACT.scaleb(Decimal(units * price), -_PLACES_OF_AMOUNT) >= Decimal(amount)


class _Sum:
    """What both aggregates share; without a value the sum is null, as SUM()'s is."""

    total: int | None = None

    def finalize(self) -> str | None:
        return None if self.total is None else str(self.total)


class _ExactSum(_Sum):
    """The sum of a column."""

    def step(self, number: int | None) -> None:
        if number is not None:
            self.total = number + (self.total or 0)


class _AmountSum(_Sum):
    """The sum of the products of two columns."""

    def step(self, units: int | None, price: int | None) -> None:
        if units is not None and price is not None:
            self.total = units * price + (self.total or 0)
