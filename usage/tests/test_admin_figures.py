"""What all bills add up to is exact, and kept for a while where adding it up takes long."""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.db import OperationalError, connection
from django.test import Client, override_settings

from usage.admin import figures
from usage.models import Customer
from usage.tests.conftest import DatabaseClock
from usage.tests.staff import queries, report, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def now(database_clock: DatabaseClock) -> dt.datetime:
    return database_clock.set("2026-11-23T12:00:00Z")


@pytest.fixture
def kept() -> Iterator[None]:
    backend = "django.core.cache.backends.locmem.LocMemCache"
    with override_settings(CACHES={"default": {"BACKEND": backend, "LOCATION": "figures"}}):
        yield
        cache.clear()


def test_amounts_are_added_digit_for_digit(customer: Customer, now: dt.datetime) -> None:
    most, least = ("999999999999.999999", "0.999999999999"), ("0.000001", "0.000000000001")
    for units, price in (most, least, least):
        report(units=Decimal(units), price_per_unit=Decimal(price))

    found = figures.figures(now)

    assert found is not None
    (amount,) = found.amounts
    assert amount.amount == Decimal("999999999998.999999000000000003")
    assert amount[:4] == ("USD", dt.date(2026, 11, 1), now.date(), "Database Hosting")


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no other way")
def test_lines_are_added_up_in_the_order_of_their_index(
    customer: Customer, now: dt.datetime
) -> None:
    report()
    with queries() as statements:
        figures.figures(now)
    (lines,) = [
        sql for sql in statements if "GROUP BY" in sql and "bill_id" in sql.split("FROM")[0]
    ]

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE usage_bill, usage_dailyusage")
        # For so many rows of one bill the planner would rather sort them again.
        cursor.execute("UPDATE pg_class SET reltuples = 24 WHERE relname = 'usage_dailyusage'")
        cursor.execute("UPDATE pg_class SET reltuples = 1 WHERE relname = 'usage_bill'")
        cursor.execute(f"EXPLAIN {lines}")  # in the same transaction
        plan = "\n".join(row for (row,) in cursor.fetchall())

    assert "GroupAggregate" in plan
    assert "daily_usage_once" in plan, plan


@pytest.mark.usefixtures("kept")
def test_what_takes_long_is_kept(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "WORTH_KEEPING_SECONDS", 0)
    monkeypatch.setattr(figures, "KEPT_TIMES", 10**6)
    report()
    before = admin_client.get("/admin/").context["accrued"]
    report()

    with queries() as statements:
        after = admin_client.get("/admin/").context["accrued"]

    assert after == before
    assert not [sql for sql in statements if "usage_dailyusage" in sql and "currency" in sql]


@pytest.mark.usefixtures("kept")
def test_what_is_added_up_at_once_is_not_kept(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "WORTH_KEEPING_SECONDS", 3600)
    for amount in ("$2.90", "$5.80"):
        report()
        assert admin_client.get("/admin/").context["accrued"]["amount"] == amount


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(("gave_up", "seconds"), [(False, 600), (True, 60)])
def test_it_is_kept_for_ten_minutes_at_most_and_tried_again_after_one(
    now: dt.datetime, monkeypatch: pytest.MonkeyPatch, gave_up: bool, seconds: int
) -> None:
    monkeypatch.setattr(figures, "WORTH_KEEPING_SECONDS", 0)
    monkeypatch.setattr(figures, "KEPT_TIMES", 10**9)
    if gave_up:
        monkeypatch.setattr(figures, "_read", fail)
        monkeypatch.setattr(figures, "is_unavailable", lambda error: True)
    with time_machine.travel(now, tick=False) as clock:
        first = figures.figures(now)
        newer = figures.Figures(now + dt.timedelta(days=1), [], {}, {}, [], {})
        monkeypatch.setattr(figures, "_read", lambda now: newer)
        clock.shift(seconds - 1)
        assert figures.figures(now) == first
        clock.shift(2)
        assert figures.figures(now) == newer


def fail(*_: Any) -> None:
    cause = OperationalError("canceling statement due to statement timeout")
    raise OperationalError from cause


def test_a_page_that_the_database_cannot_add_up_says_so_and_shows_the_rest(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    report()
    monkeypatch.setattr(figures, "_prices", fail)
    monkeypatch.setattr(figures, "is_unavailable", lambda error: True)

    page = text_of(admin_client.get("/admin/"))

    assert "The database took too long to add up all bills" in page
    assert "No bill is due." in page


def test_another_error_is_not_hidden(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "_prices", fail)

    with pytest.raises(OperationalError):
        admin_client.get("/admin/")
