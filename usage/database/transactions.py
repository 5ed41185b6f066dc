"""Transactions as billing needs them.

They are repeated when the database asks for it, dated by the database's clock, and read as one
snapshot.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psycopg2
from django.db import (
    DEFAULT_DB_ALIAS,
    Error,
    InterfaceError,
    OperationalError,
    connection,
    connections,
    transaction,
)

from usage.database import deadline
from usage.database.deadline import DatabaseUnavailable as DatabaseUnavailable  # noqa: PLC0414 - theirs too
from usage.database.deadline import circuit
from usage.database.postgresql.waiting import GivenUp

T = TypeVar("T")

# SQL for the database's clock, by vendor.
NOW = {
    "postgresql": "statement_timestamp()",
    "sqlite": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')",
}
# A commit that wrote nothing waits for no standby: what such a transaction found, after a crash,
# may be on this server alone, and would be lost with it though it was answered as stored. This
# makes the transaction one that wrote, after the rows it found; without standbys it does nothing.
ON_STANDBY = (
    "(SELECT pg_logical_emit_message(true, 'billing', '')"
    " WHERE current_setting('synchronous_standby_names') <> '')"
)
# A statement on PostgreSQL, and the beginning of a transaction on SQLite, may take 5 s; with none
# begun after 3 s all is over after 8: a caller waits 10.
_LAST_START_SECONDS = 3.0
_LONGEST_PAUSE_SECONDS = 0.2

# SQLSTATEs after which the same transaction may well succeed: serialization failure, deadlock,
# lock timeout, a server that is going down or coming up, a connection ended for being idle.
_REPEATABLE_STATES = frozenset(
    {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "57P05", "25P03"}
)
# On another connection only: the server has become a standby, or a prepared statement is not as
# it was (gone, or there already).
_STALE_STATES = frozenset({"25006", "26000", "42P05"})
# Statement timeout; and the classes of connection lost, resources exhausted, system error.
_UNAVAILABLE_STATES = ("57014", "08", "53", "58")
# SQLite's primary result codes BUSY and LOCKED; NOMEM, READONLY, IOERR, FULL, CANTOPEN, PROTOCOL.
_SQLITE_REPEATABLE = frozenset({5, 6})
_SQLITE_UNAVAILABLE = frozenset({7, 8, 10, 13, 14, 15})


class Repeat(Exception):
    """Another transaction overtook the first reads: roll back and run again."""


def is_repeatable(error: BaseException) -> bool:
    """Tell whether the same transaction, run again, may succeed: a lost race or connection."""
    cause = error.__cause__
    match cause:
        case GivenUp():
            return False  # the time is over
        case sqlite3.Error():
            return _primary_code(cause) in _SQLITE_REPEATABLE
        case psycopg2.Error(pgcode=None):
            # What libpq finds out by itself, a refused or broken connection, has no state.
            return isinstance(cause, psycopg2.OperationalError | psycopg2.InterfaceError)
        case psycopg2.Error(pgcode=state):
            return state in _REPEATABLE_STATES or _is_stale(cause)
    return isinstance(error, Repeat)


def is_unavailable(error: BaseException) -> bool:
    """Tell whether the database, and not the statement, is to blame for a Django database error."""
    cause = error.__cause__
    match cause:
        case GivenUp():
            return True
        case sqlite3.Error() if _primary_code(cause) in _SQLITE_UNAVAILABLE:
            return True
        case psycopg2.Error(pgcode=str(state)) if state.startswith(_UNAVAILABLE_STATES):
            return True
    return isinstance(error, DatabaseUnavailable) or is_repeatable(error)


def sqlstate_class(error: BaseException | None) -> str:
    """Return the two-character class of the SQLSTATE behind an error, or "none"."""
    while error is not None:
        if isinstance(error, psycopg2.Error) and error.pgcode:
            return error.pgcode[:2]
        error = error.__cause__
    return "none"


def _is_stale(error: BaseException | None) -> bool:
    """Tell whether another connection would do: what this one has prepared is out of date."""
    if not isinstance(error, psycopg2.Error):
        return False
    # A column's type was changed; 0A000 alone would also be a feature that the server lacks.
    is_changed = error.diag.source_function == "RevalidateCachedQuery"
    return error.pgcode in _STALE_STATES or (error.pgcode == "0A000" and is_changed)


def _primary_code(error: sqlite3.Error) -> int:
    # Errors that the driver itself raises, about misuse, have no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def repeatable(
    work: Callable[[], T],
    *,
    began: float | None = None,
    patience: float = _LAST_START_SECONDS,
    attempts: int = 5,
) -> T:
    """Run `work` in a transaction of its own and return its result, once that is committed.

    Deadlocks, lock timeouts and lost connections run the whole transaction again, with jitter,
    all within 8 s; then DatabaseUnavailable is raised. Other errors pass through, and so does a
    Repeat that repeating does not mend, which is a bug. The seconds count from `began`, of the
    monotonic clock, if the caller has waited already. Work of many statements that no caller waits
    for has more `patience`: the seconds within which the last begins.
    """
    nested = connection.in_atomic_block  # only in tests: production asks for durable
    give_up = (time.monotonic() if began is None else began) + patience
    attempt = 0
    while True:
        attempt += 1
        if time.monotonic() > give_up:
            raise DatabaseUnavailable("The database took too long over one transaction.")
        # Django need not ask whether the connection lives: a lost one repeats the transaction.
        connection.health_check_done = True  # type: ignore[attr-defined]  # not in the stubs
        try:
            with _in_time(give_up), transaction.atomic(durable=True):
                return work()
        except Repeat:
            if attempt >= attempts:
                raise
        except Error as error:
            if not is_unavailable(error):
                raise
            last = attempt >= attempts or time.monotonic() > give_up
            if nested or last or not is_repeatable(error):
                raise DatabaseUnavailable("The database could not take the transaction.") from error
            if _is_stale(error.__cause__):
                connection.close()
        if not nested:
            connection.close_if_unusable_or_obsolete()
        pause = min(_LONGEST_PAUSE_SECONDS, 0.01 * 2**attempt)
        time.sleep(random.uniform(0, pause))  # noqa: S311 - jitter keeps no secret


def ask_first(read: Callable[[], T]) -> T:
    """Return the result of a request's first query, on a connection that may have died.

    Django would ask the server beforehand whether it lives, which takes as long as the query. This
    one is given up after half a second, and asked again on a new connection.
    """
    if not connection.in_atomic_block:  # as only in tests
        connection.close_if_unusable_or_obsolete()
        if connection.connection is not None:
            connection.health_check_done = True  # type: ignore[attr-defined]  # not in the stubs
            try:
                with deadline.within(deadline.HEALTH_CHECK_SECONDS):
                    return read()
            except (OperationalError, InterfaceError):
                connection.close()
    return read()


def _in_time(last_start: float) -> contextlib.AbstractContextManager[None]:
    """Let no statement begin after `last_start`; raises CircuitOpen while the server is silent.

    Nor is one sent to a database that could not hold all that is written.
    """
    if connection.vendor == "sqlite":
        return contextlib.nullcontext()  # a file is never silent, and only the beginning waits
    circuit.check()

    def check(execute: Callable[..., Any], *others: Any) -> Any:
        if time.monotonic() > last_start:
            raise DatabaseUnavailable("The database took too long over one transaction.")
        if refusal := getattr(connection, "refusal", ""):  # our PostgreSQL backend has it
            raise DatabaseUnavailable(refusal)
        return execute(*others)

    return connection.execute_wrapper(check)


def confirm_on_standby() -> None:
    """Let the commit wait until what this transaction has found is on the synchronous standby."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {ON_STANDBY}")


def database_now() -> dt.datetime:
    """Return the database's clock, in UTC, cut to the millisecond."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {NOW[connection.vendor]}", [])
        (now,) = cursor.fetchone()
    return instant(now)


def instant(value: dt.datetime | str) -> dt.datetime:
    """Return a driver's time (SQLite's is text in UTC) in UTC, cut to the millisecond."""
    if isinstance(value, str):
        value = dt.datetime.fromisoformat(value)
    value = value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


def lift_statement_timeout(*, using: str = DEFAULT_DB_ALIAS) -> None:
    """Let the statements of this transaction take as long as they need; on SQLite all do."""
    database = connections[using]
    if database.vendor == "postgresql":
        with database.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 0")


def group_in_index_order() -> None:
    """Let what this transaction still reads be grouped in the order of an index, in parallel.

    For very many groups: PostgreSQL would put them into a hash table larger than the processor's
    caches, which takes 1.4 times the processor time. SQLite groups so by itself.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SET LOCAL enable_hashagg = off; SET LOCAL enable_sort = off;"
                " SET LOCAL enable_incremental_sort = off;"
                " SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0;"
                " SET LOCAL jit = off"
            )


@contextlib.contextmanager
def snapshot(*, statement_timeout: bool = False) -> Iterator[None]:
    """Let all that is read inside see one state of the database, however long that takes.

    With `statement_timeout` a statement may take no longer than elsewhere. It holds up no writer:
    on SQLite the transaction is a deferred one.
    """
    if connection.in_atomic_block:  # only in tests: their transaction is the snapshot
        yield
    elif connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            if not statement_timeout:
                lift_statement_timeout()
            yield
    else:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN DEFERRED")
            try:
                yield
            finally:
                cursor.execute("ROLLBACK")
