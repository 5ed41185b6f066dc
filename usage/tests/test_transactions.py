"""Which errors of a database are worth another try, which are its fault; and its clock."""

import datetime as dt
import sqlite3

import psycopg2
import pytest
from django.db import Error

from usage.database.transactions import (
    DatabaseUnavailable,
    instant,
    is_repeatable,
    is_unavailable,
)


def of_postgresql(state: str) -> Error:
    cause = psycopg2.errors.lookup(state)(f"said by the server: {state}")
    cause.__setstate__({"pgcode": state})  # type: ignore[no-untyped-call]  # not in the stubs
    return caused_by(cause)


def of_sqlite(code: int) -> Error:
    cause = sqlite3.OperationalError(f"said by the library: {code}")
    cause.sqlite_errorcode = code
    return caused_by(cause)


def caused_by(cause: Exception) -> Error:
    error = Error("as Django raises it")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        *map(of_postgresql, ["40001", "40P01", "55P03"]),  # a race or a lock was lost
        *map(of_postgresql, ["57P01", "57P02", "57P03"]),  # the server goes down or comes up
        *map(of_postgresql, ["57P05", "25P03", "25006"]),  # idle too long; a standby by now
        *map(of_postgresql, ["26000", "42P05"]),  # what was prepared is gone, or there already
        of_sqlite(sqlite3.SQLITE_BUSY),
        of_sqlite(sqlite3.SQLITE_BUSY_RECOVERY),
        of_sqlite(sqlite3.SQLITE_LOCKED),
        caused_by(psycopg2.OperationalError("server closed the connection unexpectedly")),
        caused_by(psycopg2.InterfaceError("connection already closed")),
    ],
    ids=lambda error: repr(error.__cause__),
)
def test_what_may_succeed_is_tried_again(error: Error) -> None:
    assert is_repeatable(error)
    assert is_unavailable(error)


@pytest.mark.parametrize(
    "error",
    [
        of_postgresql("57014"),  # a statement took too long
        *map(of_postgresql, ["08006", "08P01"]),
        *map(of_postgresql, ["53100", "53200", "53300", "58030"]),  # disk, memory, connections
        of_sqlite(sqlite3.SQLITE_NOMEM),
        of_sqlite(sqlite3.SQLITE_READONLY),
        of_sqlite(sqlite3.SQLITE_IOERR_WRITE),
        of_sqlite(sqlite3.SQLITE_FULL),
        of_sqlite(sqlite3.SQLITE_CANTOPEN),
        of_sqlite(sqlite3.SQLITE_PROTOCOL),
    ],
    ids=lambda error: repr(error.__cause__),
)
def test_what_would_fail_again_is_the_databases_fault(error: Error) -> None:
    assert not is_repeatable(error)
    assert is_unavailable(error)


@pytest.mark.parametrize(
    "error",
    [
        *map(of_postgresql, ["22003", "22P02", "23505", "23514", "42601", "42P01", "0A000"]),
        *map(of_postgresql, ["25P02", "42501", "3D000", "XX000"]),
        of_sqlite(sqlite3.SQLITE_ERROR),
        of_sqlite(sqlite3.SQLITE_CONSTRAINT_CHECK),
        of_sqlite(sqlite3.SQLITE_CORRUPT),
        of_sqlite(sqlite3.SQLITE_MISUSE),
        caused_by(psycopg2.ProgrammingError("can't adapt type")),
        caused_by(ValueError("of ours")),
        Error("without a cause"),
    ],
    ids=lambda error: repr(error.__cause__),
)
def test_what_is_our_own_fault_is_not_hidden(error: Error) -> None:
    assert not is_repeatable(error)
    assert not is_unavailable(error)


def test_an_unavailable_database_is_told_in_one_line_with_what_it_said() -> None:
    error = DatabaseUnavailable("The database could not take the transaction.")
    error.__cause__ = Error("canceling statement due to lock timeout\nCONTEXT:  while locking\n")

    assert str(error) == (
        "The database could not take the transaction. canceling statement due to lock timeout"
        " CONTEXT: while locking"
    )


@pytest.mark.parametrize(
    "read",
    [
        "2026-11-23 12:00:00.123999",
        dt.datetime(2026, 11, 23, 12, 0, 0, 123_999, dt.UTC),
        dt.datetime(2026, 11, 23, 13, 0, 0, 123_999, dt.timezone(dt.timedelta(hours=1))),
    ],
    ids=["SQLite", "PostgreSQL", "PostgreSQL in another zone"],
)
def test_the_clock_is_read_in_utc_and_cut_to_the_millisecond(read: str | dt.datetime) -> None:
    assert instant(read) == dt.datetime(2026, 11, 23, 12, 0, 0, 123_000, dt.UTC)
