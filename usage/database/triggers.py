"""The guards: triggers, and one exclusion constraint, by which the database refuses changes.

Their SQL is beside this module, one file for each engine, for all tables at once. A change of it
reaches existing databases by a migration that ends with `RunPython(triggers.install_in_migration)`;
the step goes out of the migrations before it, where the tables do not fit the SQL yet.
A migration that remakes a table on SQLite, which drops the table's triggers, begins with
`remove_in_migration` and ends with it too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

_FOLDER = Path(__file__).parent
_MIGRATIONS = _FOLDER.parent / "migrations"
_GUARD = re.compile(
    r"CREATE (?:OR REPLACE )?TRIGGER (?P<trigger>\w+).*? ON (?P<on>\w+)(?P<rest>.*)"
    r"|ALTER TABLE (?P<altered>\w+) .* ADD CONSTRAINT (?P<constraint>\w+)\s+(?P<definition>.*)",
    re.DOTALL,
)
_FUNCTION = re.compile(r"CREATE OR REPLACE FUNCTION (\w+)\(\).*?\$\$(.*)\$\$", re.DOTALL)
_CALLED = re.compile(r"EXECUTE FUNCTION (\w+)\(")
# Each guard on a table of ours as the database knows it: name, table, definition, the body of its
# function, and whether it fires. A table is the one that this connection's own statements reach.
_INSTALLED = {
    "postgresql": """
        SELECT guard.tgname, guard.tgrelid::regclass::text, pg_get_triggerdef(guard.oid, true),
            function.prosrc, guard.tgenabled IN ('O', 'A')
        FROM pg_trigger guard JOIN pg_proc function ON function.oid = guard.tgfoid
        WHERE NOT guard.tgisinternal AND guard.tgrelid IN (SELECT to_regclass(unnest(%s::text[])))
        UNION ALL
        SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid, true), '', true
        FROM pg_constraint
        WHERE contype = 'x' AND conrelid IN (SELECT to_regclass(unnest(%s::text[])))
    """,
    "sqlite": "SELECT name, tbl_name, sql, '', 1 FROM sqlite_master WHERE type = 'trigger'",
}


class _Guard(NamedTuple):
    """A guard: its table, the SQL that installs it, and the database's own form of it."""

    table: str
    sql: str
    definition: str
    body: str = ""


def install(connection: BaseDatabaseWrapper) -> dict[str, str]:
    """Put right every guard that does not hold; return the faults, as `faults` does."""
    wrong = faults(connection)
    guards, functions = _guards(connection.vendor), _functions(connection.vendor)
    with connection.cursor() as cursor:
        for sql, _ in functions.values() if wrong else ():
            cursor.execute(sql)
        for name in wrong.keys() & guards.keys():
            if connection.vendor == "sqlite":
                cursor.execute(f"DROP TRIGGER IF EXISTS {name}")
            cursor.execute(guards[name].sql)
    return wrong


def remove(connection: BaseDatabaseWrapper) -> None:
    """Drop SQLite's triggers; they come back with `install`."""
    with connection.cursor() as cursor:
        for name in _guards("sqlite"):
            cursor.execute(f"DROP TRIGGER IF EXISTS {name}")


def remove_in_migration(_apps: Any, schema_editor: Any) -> None:
    """Begin a migration that remakes tables on SQLite, where the guards of others would fail."""
    if schema_editor.connection.vendor == "sqlite":
        remove(schema_editor.connection)


@contextmanager
def lifted(name: str, connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Lift one guard inside a migration's transaction, which no other transaction sees."""
    guard = _guards(connection.vendor)[name]
    off, on = f"ALTER TABLE {guard.table} DISABLE TRIGGER {name}", guard.sql
    if connection.vendor == "sqlite":
        off = f"DROP TRIGGER {name}"
    with connection.cursor() as cursor:
        cursor.execute(off)
        yield
        cursor.execute(on)


def install_in_migration(_apps: Any, schema_editor: Any) -> None:
    """Install the guards as a step of a migration."""
    install(schema_editor.connection)


def faults(connection: BaseDatabaseWrapper) -> dict[str, str]:
    """Return the faults of the guards, by name, in at most three queries: it suits a probe.

    A guard is missing, switched off, or changed: its definition or its function is not the one of
    this version. While a newer version's migrations are applied, its guards may differ from ours.
    """
    guards = _guards(connection.vendor)
    with connection.cursor() as cursor:
        tables = sorted({guard.table for guard in guards.values()})
        params = [tables, tables] if connection.vendor == "postgresql" else []
        cursor.execute(_INSTALLED[connection.vendor], params)
        installed = {(table, name): row for name, table, *row in cursor.fetchall()}
        found = {
            name: fault
            for name, guard in guards.items()
            if (fault := _fault(guard, installed.get((guard.table, name))))
        }
        if "changed" in found.values():
            cursor.execute("SELECT name FROM django_migrations WHERE app = 'usage'")
            ours = {file.stem for file in _MIGRATIONS.glob("[0-9]*.py")}
            if any(name not in ours for (name,) in cursor.fetchall()):
                found = {name: fault for name, fault in found.items() if fault != "changed"}
        if connection.vendor == "postgresql":
            cursor.execute("SELECT current_setting('session_replication_role')")
            if cursor.fetchone() == ("replica",):
                found["every guard"] = "switched off by session_replication_role"
    return found


def described(found: Mapping[str, str]) -> str:
    """Return what `faults` found as one text: "bill_only_closes is missing, …"."""
    return ", ".join(f"{name} is {fault}" for name, fault in sorted(found.items()))


def _fault(guard: _Guard, installed: list[Any] | None) -> str:
    if installed is None:
        return "missing"
    definition, body, is_on = installed
    if not is_on:
        return "switched off"
    is_same = _normal(definition) == guard.definition and _normal(body) == guard.body
    return "" if is_same else "changed"


@cache
def _statements(vendor: str) -> list[str]:
    """Return the statements of an engine's file, each of which begins a line of its own."""
    sql = (_FOLDER / f"triggers_{vendor}.sql").read_text()
    _comment, *statements = re.split(r"^(?=CREATE |ALTER )", sql, flags=re.MULTILINE)
    return statements


@cache
def _functions(vendor: str) -> dict[str, tuple[str, str]]:
    """Return the SQL of each function, and its body alone, by name."""
    found = ((sql, _FUNCTION.match(sql)) for sql in _statements(vendor))
    return {match[1]: (sql, _normal(match[2])) for sql, match in found if match}


@cache
def _guards(vendor: str) -> dict[str, _Guard]:
    guards = {}
    for sql in _statements(vendor):
        match = _GUARD.match(sql)
        if match is None:
            continue  # a function
        if name := match["constraint"]:
            guards[name] = _Guard(match["altered"], sql, _normal(match["definition"]))
        else:
            called = _CALLED.search(sql)
            body = _functions(vendor)[called[1]][1] if called else ""
            guards[match["trigger"]] = _Guard(match["on"], sql, _normal(sql), body)
    return guards


def _normal(sql: str) -> str:
    """Return SQL without its comments, case and layout, which the database does not keep."""
    without_comments = re.sub(r"^\s*--.*$", "", sql, flags=re.MULTILINE)
    text = " ".join(without_comments.replace("OR REPLACE ", "").split())
    return text.rstrip("; ").casefold()
