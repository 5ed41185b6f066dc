"""The database, the ORM and the models each refuse to change what is fixed."""

from decimal import Decimal
from io import StringIO

import pytest
from django.db import connection, models, transaction
from psycopg2 import extensions

from usage.database.postgresql import waiting
from usage.models import Bill, DailyUsage, Frozen, UsageRecord
from usage.tests.factories import CustomerFactory
from usage.tests.guarded import (
    any_connection,
    everything,
    on_postgresql,
    on_sqlite,
    plain,
    refused,
    run,
)

# Other tests measure this code.
pytestmark = [pytest.mark.django_db, pytest.mark.no_cover]


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
        "a usage record (never changes|is never replaced)",
    )


@pytest.mark.parametrize("model", [UsageRecord, Bill, DailyUsage])
def test_what_is_fixed_is_not_changed_by_get_and_save(
    model: type[models.Model], closed: Bill
) -> None:
    pk = model._base_manager.earliest("pk").pk
    with pytest.raises(Frozen, match="is stored and never changes"), transaction.atomic():
        model._default_manager.update_or_create(pk=pk, defaults={"customer_id": 123})


@pytest.mark.parametrize("model", [UsageRecord, Bill, DailyUsage])
def test_what_is_fixed_is_not_deleted_raw(model: type[models.Model], closed: Bill) -> None:
    refused(lambda: plain(model)._raw_delete("default"), "is never deleted")


@on_postgresql
def test_a_record_is_not_merged(closed: Bill) -> None:
    refused(
        run(
            "MERGE INTO usage_usagerecord USING (VALUES (1)) one ON request_id = 'open'"
            " WHEN MATCHED THEN UPDATE SET units = 1"
        ),
        "a usage record never changes",
    )


@on_postgresql
def test_a_record_is_not_copied_onto_a_closed_bill(closed: Bill) -> None:
    def copy() -> None:
        with connection.wrap_database_errors, connection.cursor() as cursor:
            cursor.execute("SELECT * FROM usage_usagerecord WHERE request_id = 'closed'")
            names = [column[0] for column in cursor.description]
            row = dict(zip(names, cursor.fetchone(), strict=True)) | {"request_id": "copied"}
            line = "\t".join("\\N" if value is None else str(value) for value in row.values())
            cursor.copy_expert(
                f"COPY usage_usagerecord ({', '.join(row)}) FROM STDIN", StringIO(line)
            )

    extensions.set_wait_callback(None)  # COPY knows only psycopg2's own way of waiting
    try:
        refused(copy, "usage goes on an open bill")
    finally:
        waiting.install()


@on_postgresql
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
    with any_connection():
        refused(run(sql), "a usage record is never replaced")


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
        f"{CLOSING}, period_end = '2026-11-20 00:00:00', currency = 'EUR'",
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
@pytest.mark.parametrize("other_id", [0, 1000], ids=["by its id", "by its period"])
def test_a_bill_is_not_replaced(other_id: int, closed: Bill) -> None:
    columns = "customer_id, month, period_start, period_end, currency"
    with any_connection():
        refused(
            run(
                f"INSERT OR REPLACE INTO usage_bill (id, {columns})"
                f" SELECT id + {other_id}, {columns} FROM usage_bill WHERE id = {closed.pk}"
            ),
            "a bill is never replaced|never overlap",
        )


@on_sqlite
def test_an_open_bill_is_not_replaced_by_another_of_its_month(opened: Bill) -> None:
    sql = inserted_bill("2026-12-01 00:00:00", "2026-12-02 00:00:00").replace("-10-01'", "-11-01'")
    with any_connection():
        refused(run(sql.replace("INSERT", "INSERT OR REPLACE")), "a bill is never replaced")


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


@on_postgresql
def test_a_bill_that_is_there_is_passed_over(opened: Bill) -> None:
    before = everything()
    start, end = (f"{at:%Y-%m-%d %H:%M:%S}" for at in (opened.period_start, opened.period_end))
    run(inserted_bill(start, end, conflict="ON CONFLICT DO NOTHING"))()
    assert everything() == before


def test_a_closed_bill_is_not_upserted(closed: Bill) -> None:
    start, end = (f"{at:%Y-%m-%d %H:%M:%S}" for at in (closed.period_start, closed.period_end))
    change = "ON CONFLICT (customer_id, period_start) DO UPDATE SET closed_total = 0"
    message = "changes only once|never overlap|never replaced"
    refused(run(inserted_bill(start, end, conflict=change)), message)
