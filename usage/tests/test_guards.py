"""The database, the ORM and the models each refuse to change what is fixed."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, models, transaction
from django.db.models.deletion import ProtectedError

from usage import guards
from usage.models import ApiKey, Bill, Customer, DailyUsage, Frozen, HistoryEntry, UsageRecord
from usage.recording import record
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory, FactFactory

pytestmark = pytest.mark.django_db
on_sqlite = pytest.mark.skipif(
    "connection.vendor != 'sqlite'", reason="only SQLite has INSERT OR REPLACE"
)
on_postgresql = pytest.mark.skipif(
    "connection.vendor != 'postgresql'", reason="only PostgreSQL has TRUNCATE and exclusion"
)


@pytest.fixture
def closed(customer: Customer, database_clock: DatabaseClock) -> Bill:
    """A closed bill with a record and daily usage; an open one follows it."""
    database_clock.set("2026-11-10T12:00:00Z")
    record([FactFactory.build(request_id="closed")], reported_by_id=None)
    bill: Bill = Bill.objects.get()
    bill.close(by="Sam")
    database_clock.set("2026-11-11T12:00:00Z")
    record([FactFactory.build(request_id="open")], reported_by_id=None)
    return bill


@pytest.fixture
def opened(closed: Bill) -> Bill:
    bill: Bill = Bill.objects.open().get()
    return bill


def refused(attempt: Callable[[], object], message: str | None = None) -> None:
    """Assert that the database refuses, and that nothing has changed."""
    before = everything()
    with pytest.raises(DatabaseError, match=message) as error, transaction.atomic():
        attempt()
    assert isinstance(error.value, IntegrityError)
    assert everything() == before


def everything() -> list[Any]:
    tables = (ApiKey, Customer, Bill, UsageRecord, DailyUsage, HistoryEntry)
    return [list(table._base_manager.order_by("pk").values()) for table in tables]


def run(sql: str) -> Callable[[], object]:
    def attempt() -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql)

    return attempt


def plain(model: type[models.Model]) -> models.QuerySet[Any]:
    """Return rows through the ORM as it is, without the models' own refusals."""
    return models.QuerySet(model)


def test_all_guards_stand_after_the_migrations() -> None:
    assert guards.missing(connection) == set()
    assert len(guards.expected(connection)) == (20 if connection.vendor == "postgresql" else 17)


# Records


@pytest.mark.parametrize("column", [field.column for field in UsageRecord._meta.fields])
def test_no_column_of_a_record_changes(column: str, closed: Bill) -> None:
    for request_id in ("closed", "open"):
        refused(
            run(
                f"UPDATE usage_usagerecord SET {column} = {column}"
                f" WHERE request_id = '{request_id}'"
            ),
            "a usage record never changes",
        )


def test_a_record_is_not_updated_through_the_orm(closed: Bill) -> None:
    records = UsageRecord.objects.all()
    refused(lambda: plain(UsageRecord).update(units=1), "a usage record never changes")
    refused(
        lambda: plain(UsageRecord).bulk_update(list(records), ["service"]),
        "a usage record never changes",
    )
    with pytest.raises(Frozen, match="Usage records never change"):
        records.update(units=1)
    with pytest.raises(Frozen, match="Usage records never change"), transaction.atomic():
        records.bulk_update(list(records), ["service"])


def test_a_record_is_not_upserted(closed: Bill) -> None:
    records = list(UsageRecord.objects.filter(bill__closed_at=None))
    refused(
        lambda: plain(UsageRecord).bulk_create(
            records, update_conflicts=True, unique_fields=["request_id"], update_fields=["units"]
        ),
        "a usage record never changes",
    )


def test_a_record_that_conflicts_is_passed_over_untouched(opened: Bill) -> None:
    before = everything()
    stored = UsageRecord.objects.get(pk="open")
    stored.units = Decimal(1)

    plain(UsageRecord).bulk_create([stored], ignore_conflicts=True)

    assert everything() == before


def test_a_record_is_not_deleted(closed: Bill) -> None:
    refused(run("DELETE FROM usage_usagerecord WHERE request_id = 'open'"), "never deleted")
    refused(lambda: plain(UsageRecord).delete(), "never deleted")
    with pytest.raises(Frozen, match="Usage records are never deleted"):
        UsageRecord.objects.all().delete()


def test_a_record_is_neither_saved_again_nor_deleted_by_itself(closed: Bill) -> None:
    stored = UsageRecord.objects.get(pk="open")
    for change in (stored.save, stored.delete):
        with pytest.raises(Frozen, match=r"^open is"):
            change()
    stored._state.adding = True
    refused(stored.save)


def test_a_record_does_not_land_on_a_closed_bill(closed: Bill) -> None:
    message = "usage goes on an open bill of its own customer"
    refused(run(inserted_record(closed.pk, "new")), message)
    stray = UsageRecord.objects.get(pk="open")
    stray.pk, stray.bill = "new", closed
    refused(lambda: plain(UsageRecord).bulk_create([stray]), message)
    stray._state.adding = True
    refused(stray.save, message)


def test_a_record_does_not_land_on_anothers_bill(opened: Bill) -> None:
    CustomerFactory.create(id=456)
    refused(run(inserted_record(opened.pk, "new", customer_id=456)), "of its own customer")


def test_a_record_does_not_land_on_a_bill_that_is_not_there(opened: Bill) -> None:
    refused(run(inserted_record(opened.pk + 1, "new")), "of its own customer")


def test_a_record_does_not_come_by_a_key_that_is_not_there(opened: Bill) -> None:
    sql = inserted_record(opened.pk, "new").replace(
        "void_reason, voided_by)", "void_reason, voided_by, reported_by_id)", 1
    )
    sql = sql.replace("void_reason, voided_by FROM", "void_reason, voided_by, 4711 FROM")
    refused(run(sql), "an API key that exists")


def inserted_record(bill_id: int, request_id: str, *, customer_id: int = 123) -> str:
    columns = (
        "service, units, price_per_unit, occurred_at, recorded_at, late, void_reason, voided_by"
    )
    return (
        f"INSERT INTO usage_usagerecord (request_id, bill_id, customer_id, {columns})"
        f" SELECT '{request_id}', {bill_id}, {customer_id}, {columns}"
        " FROM usage_usagerecord WHERE request_id = 'open'"
    )


@on_sqlite
def test_a_record_is_not_replaced(opened: Bill) -> None:
    sql = inserted_record(opened.pk, "open").replace("INSERT", "INSERT OR REPLACE", 1)
    refused(run(sql), "a usage record is never deleted")


# Bills


@pytest.mark.parametrize("column", [field.column for field in Bill._meta.fields])
def test_no_column_of_a_closed_bill_changes(column: str, closed: Bill) -> None:
    refused(
        run(f"UPDATE usage_bill SET {column} = {column} WHERE id = {closed.pk}"),
        "a bill changes only once",
    )


@pytest.mark.parametrize(
    "change",
    [
        "closed_at = NULL, closed_total = NULL",
        "closed_total = 0",
        "closed_at = '2026-11-30 00:00:00'",
    ],
)
def test_a_closed_bill_is_not_opened_again_or_closed_otherwise(change: str, closed: Bill) -> None:
    refused(
        run(f"UPDATE usage_bill SET {change} WHERE id = {closed.pk}"), "a bill changes only once"
    )


CLOSING = "closed_at = '2026-11-20 00:00:00', closed_total = 0"


@pytest.mark.parametrize(
    "change",
    [
        "period_start = '2026-11-12 00:00:00'",
        "period_end = '2026-12-02 00:00:00'",
        "month = '2026-12-01'",
        "customer_id = 456",
        f"{CLOSING}",
        f"{CLOSING}, period_end = '2026-11-19 00:00:00'",
        f"{CLOSING}, period_end = '2026-11-20 00:00:00', period_start = '2026-11-11 00:00:00'",
        f"{CLOSING}, period_end = '2026-11-20 00:00:00', month = '2026-12-01'",
        f"{CLOSING}, period_end = '2026-11-20 00:00:00', customer_id = 456",
        f"{CLOSING}, period_end = '2026-11-20 00:00:00', id = id + 1000",
    ],
)
def test_an_open_bill_changes_in_no_way_but_closing(change: str, opened: Bill) -> None:
    CustomerFactory.create(id=456)
    refused(
        run(f"UPDATE usage_bill SET {change} WHERE id = {opened.pk}"), "a bill changes only once"
    )


def test_a_bill_is_not_changed_through_the_orm(closed: Bill) -> None:
    refused(lambda: plain(Bill).update(closed_total=0), "a bill changes only once")
    with pytest.raises(Frozen, match="Bills never change"):
        Bill.objects.update(closed_total=0)
    with pytest.raises(Frozen, match="Bills never change"), transaction.atomic():
        Bill.objects.bulk_update([closed], ["month"])
    with pytest.raises(Frozen, match="is stored and never changes"):
        closed.save()


def test_a_bill_is_never_deleted(closed: Bill, opened: Bill) -> None:
    for bill in (closed, opened):
        refused(run(f"DELETE FROM usage_bill WHERE id = {bill.pk}"), "a bill is never deleted")
        with pytest.raises(Frozen, match="is never deleted"):
            bill.delete()
    with pytest.raises(Frozen, match="Bills are never deleted"):
        Bill.objects.all().delete()


@on_sqlite
def test_a_bill_is_not_replaced(closed: Bill) -> None:
    refused(
        run(f"INSERT OR REPLACE INTO usage_bill SELECT * FROM usage_bill WHERE id = {closed.pk}"),
        "a bill is never deleted",
    )


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-10-31 00:00:00", "2026-11-01 00:00:00.001"),
        ("2026-11-10 11:59:59.999", "2026-12-31 00:00:00"),
        ("2026-11-11 00:00:00", "2026-11-12 00:00:00"),
        ("2026-10-01 00:00:00", "2027-01-01 00:00:00"),
    ],
)
def test_bills_of_one_customer_never_overlap(start: str, end: str, closed: Bill) -> None:
    refused(run(inserted_bill(start, end)), "bill_periods_apart|never overlap")


def inserted_bill(start: str, end: str, customer_id: int = 123, conflict: str = "") -> str:
    return (
        "INSERT INTO usage_bill (customer_id, month, period_start, period_end, currency)"
        f" VALUES ({customer_id}, '2026-10-01', '{start}', '{end}', 'USD') {conflict}"
    )


def test_bills_may_touch_and_those_of_others_overlap(closed: Bill) -> None:
    CustomerFactory.create(id=456)
    run(inserted_bill("2026-10-01 00:00:00", "2026-11-01 00:00:00"))()
    run(inserted_bill("2026-10-01 00:00:00", "2026-11-30 00:00:00", customer_id=456))()
    assert Bill.objects.count() == 4


def test_a_bill_that_is_there_is_passed_over(opened: Bill) -> None:
    before = everything()
    start, end = (f"{at:%Y-%m-%d %H:%M:%S}" for at in (opened.period_start, opened.period_end))
    run(inserted_bill(start, end, conflict="ON CONFLICT DO NOTHING"))()
    assert everything() == before


# Daily usage


@pytest.mark.parametrize("column", ["units", "records"])
def test_daily_usage_of_a_closed_bill_never_changes(column: str, closed: Bill) -> None:
    refused(
        run(f"UPDATE usage_dailyusage SET {column} = {column} + 1 WHERE bill_id = {closed.pk}"),
        "usage goes on an open bill",
    )


def test_daily_usage_does_not_land_on_a_closed_bill(closed: Bill) -> None:
    refused(run(inserted_day(closed.pk, OTHER)), "usage goes on an open bill")
    refused(run(inserted_day(closed.pk, SAME, conflict=FOLD)), "usage goes on an open bill")


def test_daily_usage_does_not_land_on_anothers_bill(opened: Bill) -> None:
    CustomerFactory.create(id=456)
    refused(run(inserted_day(opened.pk, OTHER, customer_id=456)), "of its own customer")


def test_daily_usage_does_not_land_on_a_bill_that_is_not_there(opened: Bill) -> None:
    sql = inserted_day(opened.pk, OTHER).replace(f"SELECT {opened.pk},", f"SELECT {opened.pk + 1},")
    refused(run(sql), "of its own customer")


SAME, OTHER = "slot", "3 - slot"
FOLD = (
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
    sql = inserted_day(opened.pk, SAME).replace("INSERT", "INSERT OR REPLACE", 1)
    refused(run(sql), "daily usage is never deleted")


# History


@pytest.mark.parametrize("column", [field.column for field in HistoryEntry._meta.fields])
def test_no_column_of_the_history_changes(column: str, closed: Bill) -> None:
    refused(run(f"UPDATE usage_historyentry SET {column} = {column}"), "the history never changes")


def test_the_history_is_neither_changed_nor_deleted_through_the_orm(closed: Bill) -> None:
    entry = HistoryEntry.objects.get()
    refused(lambda: plain(HistoryEntry).update(actor="Mallory"), "the history never changes")
    refused(lambda: plain(HistoryEntry).all().delete(), "never deleted")
    for change in (
        entry.save,
        entry.delete,
        HistoryEntry.objects.all().delete,
        lambda: HistoryEntry.objects.update(actor="Mallory"),
    ):
        with pytest.raises(Frozen):
            change()


def test_the_history_is_not_deleted(closed: Bill) -> None:
    refused(run("DELETE FROM usage_historyentry"), "never deleted")


@on_sqlite
def test_the_history_is_not_replaced(closed: Bill) -> None:
    refused(
        run("INSERT OR REPLACE INTO usage_historyentry SELECT * FROM usage_historyentry"),
        "the history is never deleted",
    )


# Customers and keys


def test_the_currency_of_a_customer_with_bills_never_changes(opened: Bill) -> None:
    message = "a customer with bills keeps its id and currency"
    refused(run("UPDATE usage_customer SET currency = 'EUR' WHERE id = 123"), message)
    refused(lambda: Customer.objects.update(currency="EUR"), message)
    customer = Customer.objects.get()
    customer.currency = "EUR"
    refused(customer.save, message)
    refused(lambda: Customer.objects.bulk_update([customer], ["currency"]), message)
    refused(run("UPDATE usage_customer SET id = 999 WHERE id = 123"), message)
    # Within one transaction another customer could take the id over.
    refused(run("DELETE FROM usage_customer WHERE id = 123"), message)


@on_sqlite
def test_a_customer_with_bills_is_not_replaced(opened: Bill) -> None:
    refused(
        run("INSERT OR REPLACE INTO usage_customer (id, name, currency) VALUES (123, 'A', 'EUR')"),
        "a customer with bills keeps its id and currency",
    )


def test_the_name_of_a_customer_with_bills_changes(opened: Bill) -> None:
    Customer.objects.update(name="Alice B.", currency="USD")
    assert Customer.objects.get().name == "Alice B."


def test_the_currency_of_a_customer_without_bills_changes(customer: Customer) -> None:
    Customer.objects.update(currency="EUR")
    assert Customer.objects.get().currency == "EUR"


def test_a_customer_with_bills_is_not_deleted(opened: Bill) -> None:
    with pytest.raises(ProtectedError):
        Customer.objects.get().delete()


def test_a_key_is_not_deleted(api_key: str) -> None:
    with pytest.raises(ProtectedError, match="revoke it"):
        ApiKey.objects.get().delete()
    refused(run("DELETE FROM usage_apikey"), "an API key is never deleted")
    refused(lambda: plain(ApiKey).delete(), "an API key is never deleted")


def test_a_key_keeps_its_id(api_key: str) -> None:
    refused(run("UPDATE usage_apikey SET id = id + 1"), "an API key keeps its id")


def test_a_key_is_revoked(api_key: str) -> None:
    assert ApiKey.objects.get().revoke()


# Emptying


@on_postgresql
@pytest.mark.parametrize(
    "table",
    [
        "usage_usagerecord",
        "usage_bill",
        "usage_dailyusage",
        "usage_apikey",
        "usage_historyentry",
    ],
)
def test_no_table_is_emptied(table: str, opened: Bill) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # or their pending events refuse first
    refused(run(f"TRUNCATE {table} CASCADE"), "is never emptied")
