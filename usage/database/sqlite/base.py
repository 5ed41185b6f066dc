"""Django's SQLite, but fair: whoever waits for the one writer asks again every few milliseconds.

SQLite's own way of waiting asks less and less often, ten times a second in the end. Among writers
who hardly pause it is then those who have waited longest that find the file free least often.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

from django.db.backends.sqlite3 import base

T = TypeVar("T")
_LONGEST_PAUSE_SECONDS = 0.004


class DatabaseWrapper(base.DatabaseWrapper):
    """Waits as long as the option `timeout` says, in seconds, before "database is locked"."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return a connection whose own waiting is switched off."""
        connection = super().get_new_connection(conn_params)
        connection.execute("PRAGMA busy_timeout = 0")
        return connection

    def create_cursor(self, name: str | None = None) -> Any:
        """Return a cursor that waits in its place."""
        cursor = self.connection.cursor(factory=_Cursor)
        cursor.patience = self.settings_dict["OPTIONS"]["timeout"]
        return cursor


class _Cursor(base.SQLiteCursorWrapper):
    patience: float

    def execute(self, query: str, params: Any = None) -> Any:
        return self._patiently(lambda: super(_Cursor, self).execute(query, params))

    def executemany(self, query: str, param_list: Any) -> Any:
        params = list(param_list)  # an iterator could not be sent again
        return self._patiently(lambda: super(_Cursor, self).executemany(query, params))

    def _patiently(self, send: Callable[[], T]) -> T:
        give_up = time.monotonic() + self.patience
        while True:
            try:
                return send()
            except sqlite3.OperationalError as error:
                # BUSY alone, for which SQLite waits too: of its kinds some never end by waiting.
                is_busy = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > give_up:
                    raise
            time.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311 - keeps no secret
