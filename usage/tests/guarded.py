"""What the tests of the guards share: ways to ask for what must be refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, models, transaction

from usage.models import (
    ApiKey,
    Bill,
    BillingTimeZone,
    Change,
    Customer,
    DailyUsage,
    HistoryEntry,
    UsageRecord,
)

on_sqlite = pytest.mark.skipif(
    connection.vendor != "sqlite", reason="only SQLite has INSERT OR REPLACE"
)
on_postgresql = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="only PostgreSQL has TRUNCATE and exclusion"
)


@contextlib.contextmanager
def any_connection() -> Iterator[None]:
    """Run as any program that opens the SQLite file does: REPLACE calls no DELETE trigger."""
    run("PRAGMA recursive_triggers = OFF")()
    yield
    run("PRAGMA recursive_triggers = ON")()


def refused(attempt: Callable[[], object], message: str | None = None) -> None:
    """Assert that the database refuses, and that nothing has changed."""
    before = everything()
    with pytest.raises(DatabaseError, match=message) as error, transaction.atomic():
        attempt()
    assert isinstance(error.value, IntegrityError)
    assert everything() == before


def everything() -> list[Any]:
    tables = (
        *(ApiKey, BillingTimeZone, Customer, Bill, UsageRecord, DailyUsage, HistoryEntry, Change),
    )
    return [list(table._base_manager.order_by("pk").values()) for table in tables]


def run(sql: str) -> Callable[[], object]:
    def attempt() -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql)

    return attempt


def plain(model: type[models.Model]) -> models.QuerySet[Any]:
    """Return rows through the ORM as it is, without the models' own refusals."""
    return models.QuerySet(model)
