"""A row that Python cannot read is named, and ends no work on other bills.

Such rows were possible before the checks of `Readable`; the tests take these away again.
"""

import contextlib
from collections.abc import Iterator

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import Client

from usage.database import triggers
from usage.ledger.close import CloseRefused, close
from usage.models import Bill
from usage.tests.billed import Bills, make_bills
from usage.tests.conftest import DatabaseClock
from usage.tests.guarded import on_sqlite, run
from usage.tests.staff import list_of
from usage.verification import Verification

pytestmark = pytest.mark.django_db

UNREADABLE = {
    "postgresql": {
        "daily usage without units": ("dailyusage", "units = 'NaN'", "new"),
        "daily usage without a price": ("dailyusage", "price_per_unit = 'NaN'", "new"),
        "daily usage of long ago": ("dailyusage", "day = '0044-03-15 BC'", "new"),
        "a record of never": ("usagerecord", "occurred_at = 'infinity'", "new"),
        "a bill without a total": ("bill", "closed_total = 'NaN'", "old"),
        "a bill of long ago": ("bill", "month = '0044-03-01 BC'", "new"),
        "a bill that never ends": ("bill", "period_end = 'infinity'", "new"),
    },
    "sqlite": {
        "daily usage of no day": ("dailyusage", "day = 'garbage'", "new"),
        "a record of no time": ("usagerecord", "occurred_at = 'garbage'", "new"),
        "a record that was never recorded": ("usagerecord", "recorded_at = 'garbage'", "new"),
        "a bill of no month": ("bill", "month = 'garbage'", "new"),
        "a bill without an end": ("bill", "period_end = 'garbage'", "new"),
        "a bill that was never closed": ("bill", "closed_at = 'garbage'", "old"),
    },
}[connection.vendor]


@pytest.fixture
def bills(db: None, database_clock: DatabaseClock) -> Bills:
    return make_bills(database_clock)


@pytest.fixture
def without_checks(bills: Bills) -> Iterator[None]:
    if connection.vendor == "sqlite":
        triggers.remove(connection)
        run("PRAGMA ignore_check_constraints = ON")()
    else:
        run("SET CONSTRAINTS ALL IMMEDIATE")()  # or their events would forbid to alter the tables
        for table in ("bill", "usagerecord", "dailyusage"):
            run(f"ALTER TABLE usage_{table} DISABLE TRIGGER USER")()
        for table, check in (
            ("bill", "bill_readable"),
            ("dailyusage", "daily_usage_readable"),
            ("usagerecord", "record_readable"),
            ("usagerecord", "record_occurred_in_time"),
        ):
            run(f"ALTER TABLE usage_{table} DROP CONSTRAINT {check}")()
    yield
    if connection.vendor == "sqlite":
        run("PRAGMA ignore_check_constraints = OFF")()
    transaction.set_rollback(True)


@pytest.fixture(params=UNREADABLE)
def spoilt(request: pytest.FixtureRequest, bills: Bills, without_checks: None) -> int:
    """Spoil one row; return the id of its bill."""
    table, change, name = UNREADABLE[request.param]
    column = "id" if table == "bill" else "bill_id"
    if table == "usagerecord":
        run(f"UPDATE usage_usagerecord SET {change} WHERE request_id = 'new:1'")()
    elif table == "dailyusage":
        run(
            f"UPDATE usage_dailyusage SET {change}"
            f" WHERE id = (SELECT min(id) FROM usage_dailyusage WHERE bill_id = {bills[name]})"
        )()
    else:
        run(f"UPDATE usage_{table} SET {change} WHERE {column} = {bills[name]}")()
    return bills[name]


def test_verification_names_the_row_and_verifies_the_other_bills(spoilt: int) -> None:
    verification = Verification()

    differences = list(verification.differences())

    assert "unreadable" in {difference.invariant for difference in differences}
    assert {difference.bill_id for difference in differences} == {spoilt}
    assert verification.bills >= 2


def test_every_other_due_bill_is_closed(
    spoilt: int, bills: Bills, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-12-10T12:00:00Z")

    with contextlib.suppress(CommandError):  # raised unless only a record is spoilt
        call_command("close_bills")

    closed = set(Bill.objects.closed().values_list("pk", flat=True))
    assert closed >= {*bills.values()} - {spoilt}


@pytest.mark.no_cover  # other tests measure this code
def test_the_pages_of_the_other_bills_are_shown(
    spoilt: int, bills: Bills, admin_client: Client
) -> None:
    for path in ("", "usage/bill/", "usage/customer/"):
        assert admin_client.get(f"/admin/{path}").status_code == 200, path

    export = admin_client.get("/admin/usage/bill/export.csv")
    assert export.status_code == 200
    assert str(bills["bob"]) in b"".join(export).decode()


@on_sqlite  # PostgreSQL's driver refuses such a row
def test_the_list_of_a_customer_has_the_records_beside_it(
    spoilt: int, bills: Bills, admin_client: Client
) -> None:
    shown = admin_client.get(list_of("usagerecord", customer=123)).context["cl"].result_list

    assert {record.pk for record in shown} >= {"old:1", "old:2", "new:2", "late"}


@on_sqlite
def test_the_records_on_it_are_among_those_of_the_customer_to_void(
    bills: Bills, without_checks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run(f"UPDATE usage_bill SET month = 'garbage' WHERE id = {bills['new']}")()

    call_command("void_records", "--customer", "123", "--reason", "A test.")

    assert capsys.readouterr().out.startswith("3 records to void")


def test_a_bill_with_daily_usage_that_cannot_be_read_is_not_closed(
    bills: Bills, without_checks: None, database_clock: DatabaseClock
) -> None:
    spoilt = {"postgresql": "units = 'NaN'", "sqlite": "day = 'garbage'"}[connection.vendor]
    run(f"UPDATE usage_dailyusage SET {spoilt} WHERE bill_id = {bills['bob']}")()
    database_clock.set("2026-12-10T12:00:00Z")

    with pytest.raises(CloseRefused, match=f"verify_bills --bill {bills['bob']}"):
        close(Bill.objects.get(pk=bills["bob"]), by="Sam")


def test_a_bill_that_cannot_be_read_is_named_by_close_bills(
    bills: Bills,
    without_checks: None,
    database_clock: DatabaseClock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoilt = {"postgresql": "period_end = 'infinity'", "sqlite": "period_end = 'garbage'"}
    run(f"UPDATE usage_bill SET {spoilt[connection.vendor]} WHERE id = {bills['bob']}")()
    database_clock.set("2026-12-10T12:00:00Z")

    with pytest.raises(CommandError, match="1 bill could not be closed"):
        call_command("close_bills")

    assert f"Passed over bill {bills['bob']}" in capsys.readouterr().err
    assert Bill.objects.get(pk=bills["new"]).is_closed
