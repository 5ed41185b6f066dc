"""Daily usage keeps its key, changes on open bills alone and is never deleted."""

import datetime as dt
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, models, transaction

from usage.ledger.facts import DailyAddition
from usage.ledger.statements import STATEMENTS
from usage.models import Bill, DailyUsage, Frozen
from usage.tests.factories import CustomerFactory
from usage.tests.guarded import any_connection, on_sqlite, refused, run

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("column", ["units", "records"])
def test_daily_usage_of_a_closed_bill_never_changes(column: str, closed: Bill) -> None:
    refused(
        run(f"UPDATE usage_dailyusage SET {column} = {column} + 1 WHERE bill_id = {closed.pk}"),
        "usage goes on an open bill",
    )


def test_daily_usage_does_not_land_on_a_closed_bill(closed: Bill) -> None:
    refused(run(inserted_day(closed.pk, OTHER)), "usage goes on an open bill")
    refused(run(inserted_day(closed.pk, SAME, conflict=ADD_UNITS)), "usage goes on an open bill")


def test_a_refusal_by_the_database_is_not_taken_for_an_overflow(closed: Bill) -> None:
    addition = DailyAddition(
        123, closed.pk, "Storage", Decimal(1), dt.date(2026, 11, 10), 0, Decimal(1), 1
    )

    with (
        pytest.raises(IntegrityError, match="usage goes on an open bill"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        STATEMENTS[connection.vendor](cursor).add_to_daily_usage([addition])


def test_daily_usage_does_not_land_on_anothers_bill(opened: Bill) -> None:
    CustomerFactory.create(id=456)
    refused(run(inserted_day(opened.pk, OTHER, customer_id=456)), "of its own customer")


def test_daily_usage_does_not_land_on_a_bill_that_is_not_there(opened: Bill) -> None:
    sql = inserted_day(opened.pk, OTHER).replace(f"SELECT {opened.pk},", f"SELECT {opened.pk + 1},")
    refused(run(sql), "of its own customer")


SAME, OTHER = "slot", "3 - slot"
ADD_UNITS = (
    " ON CONFLICT (bill_id, service, price_per_unit, day, slot)"
    " DO UPDATE SET units = usage_dailyusage.units + excluded.units"
)


def inserted_day(bill_id: int, slot: str, customer_id: int = 123, conflict: str = "") -> str:
    columns = "service, price_per_unit, day, units, records"
    return (
        f"INSERT INTO usage_dailyusage (bill_id, customer_id, slot, {columns})"
        f" SELECT {bill_id}, {customer_id}, {slot}, {columns} FROM usage_dailyusage"
        f" WHERE bill_id = {bill_id}{conflict}"
    )


@pytest.mark.parametrize(
    "column", ["id", "customer_id", "bill_id", "service", "price_per_unit", "day", "slot"]
)
def test_daily_usage_keeps_its_key(column: str, opened: Bill) -> None:
    refused(
        run(f"UPDATE usage_dailyusage SET {column} = {column} WHERE bill_id = {opened.pk}"),
        "daily usage keeps its bill, service, price, day and slot",
    )


def test_daily_usage_is_never_deleted(opened: Bill) -> None:
    refused(run(f"DELETE FROM usage_dailyusage WHERE bill_id = {opened.pk}"), "never deleted")
    refused(models.QuerySet(DailyUsage).all().delete, "daily usage is never deleted")
    for forbidden in (DailyUsage.objects.all().delete, DailyUsage.objects.all().update):
        with pytest.raises(Frozen):
            forbidden()
    day = opened.daily_usage.get()
    for change in (day.save, day.delete):
        with pytest.raises(Frozen):
            change()


@on_sqlite
def test_daily_usage_is_not_replaced(opened: Bill) -> None:
    columns = "bill_id, customer_id, slot, service, price_per_unit, day, units, records"
    sql = (
        f"INSERT OR REPLACE INTO usage_dailyusage (id, {columns})"
        f" SELECT (SELECT min(id) FROM usage_dailyusage), {columns} FROM usage_dailyusage"
        f" WHERE bill_id = {opened.pk}"
    )
    with any_connection():
        refused(run(sql), "daily usage is never replaced")
