"""The triggers by which the database refuses to change what is fixed: installing and watching them.

Their SQL is beside this module, for all tables at once. Django drops SQLite's triggers when a
migration remakes a table, so such a migration ends with `RunPython(triggers.install_in_migration)`.
So does one that brings a guard on a new table, and the step goes out of the migrations before it.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

_FOLDER = Path(__file__).parent
_NAMES = re.compile(
    r"^(?:CREATE (?:OR REPLACE )?TRIGGER|ALTER TABLE \w+ ADD CONSTRAINT) (\w+)", re.MULTILINE
)
_STANDING = {
    "postgresql": (
        "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled IN ('O', 'A')"
        " UNION SELECT conname FROM pg_constraint WHERE contype = 'x'"
    ),
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger'",
}


def install(connection: BaseDatabaseWrapper) -> None:
    """Create every guard that is missing, and renew the others."""
    with connection.cursor() as cursor:
        for statement in _statements(connection):
            cursor.execute(statement)


def remove(connection: BaseDatabaseWrapper) -> None:
    """Drop SQLite's triggers; they come back with `install`."""
    with connection.cursor() as cursor:
        for name in expected(connection):
            cursor.execute(f"DROP TRIGGER IF EXISTS {name}")


def install_in_migration(_apps: Any, schema_editor: Any) -> None:
    """Install the guards as a step of a migration."""
    install(schema_editor.connection)


def missing(connection: BaseDatabaseWrapper) -> set[str]:
    """Return the names of the guards that do not stand, or are switched off."""
    with connection.cursor() as cursor:
        cursor.execute(_STANDING[connection.vendor])
        return expected(connection) - {name for (name,) in cursor.fetchall()}


def expected(connection: BaseDatabaseWrapper) -> set[str]:
    """Return the names of all guards."""
    return set(_NAMES.findall(_sql(connection)))


def _sql(connection: BaseDatabaseWrapper) -> str:
    return (_FOLDER / f"triggers_{connection.vendor}.sql").read_text()


def _statements(connection: BaseDatabaseWrapper) -> Iterator[str]:
    if connection.vendor == "postgresql":
        yield _sql(connection)  # libpq takes many at once; sqlite3 does not
        return
    statement = ""
    for line in _sql(connection).splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
