"""How a transaction waits for an SQLite file that another one writes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction

from usage.tests.books import Books

pytestmark = pytest.mark.skipif(
    not os.environ["DATABASE_URL"].startswith("sqlite"),
    reason="PostgreSQL lets in by turns those who wait.",
)


@pytest.fixture
def other(own_books: Books) -> Iterator[Any]:
    """A connection of somebody else's."""
    with contextlib.closing(own_books.connect()) as stranger:
        yield stranger


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def test_who_waits_asks_again_every_few_milliseconds(
    other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever came first must not ask less often than those who have just come."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 100:
            other.execute("ROLLBACK")

    monkeypatch.setattr(time, "sleep", pause)
    other.execute("BEGIN IMMEDIATE")

    with transaction.atomic():
        pass

    assert len(pauses) == 100
    assert max(pauses) < 0.005


def test_single_statements_wait_alike(other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: other.execute("ROLLBACK"))
    other.execute("BEGIN IMMEDIATE")

    with connection.cursor() as cursor:
        cursor.execute("UPDATE usage_customer SET name = 'Ann' WHERE id = 1")
        assert cursor.rowcount == 1


def test_what_no_waiting_mends_is_an_error_at_once(other: Any, pauses: list[float]) -> None:
    """A transaction that has read an older state of the file can never write it."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN DEFERRED")
        cursor.execute("SELECT count(*) FROM usage_customer")
        cursor.fetchall()
        other.execute("UPDATE usage_customer SET name = 'Ann' WHERE id = 1")

        with pytest.raises(OperationalError, match="locked"):
            cursor.execute("UPDATE usage_customer SET name = 'Bob' WHERE id = 1")
        cursor.execute("ROLLBACK")

    assert not pauses


def test_a_transaction_is_the_only_writer_from_its_beginning(own_books: Books) -> None:
    with (
        transaction.atomic(),
        contextlib.closing(sqlite3.connect(own_books.path, timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("BEGIN IMMEDIATE")


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("synchronous", 2), ("recursive_triggers", 1), ("foreign_keys", 1)],
)
def test_a_commit_is_on_the_disk_and_every_rule_holds(
    own_books: Books, pragma: str, value: str | int
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA {pragma}")
        assert cursor.fetchone() == (value,)
