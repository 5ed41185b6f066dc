"""A customer's records are found by the bills: no index has them all."""

import random

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client

from usage.admin import record_list
from usage.admin.pages import BillingAdmin
from usage.models import Bill, Customer, UsageRecord
from usage.models.usage_record import first_of_customer
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.tests.staff import about_records, list_of, queries, report
from usage.tests.test_admin_paging import pages

pytestmark = pytest.mark.django_db

NEWEST_FIRST = ("-recorded_at", "request_id")
OLDEST_FIRST = ("recorded_at", "-request_id")


@pytest.fixture
def bills(customer: Customer, database_clock: DatabaseClock) -> list[Bill]:
    """Three months of two customers, with records of one bill among those of the next."""
    CustomerFactory.create(id=456)
    shuffled = random.Random(1)
    for day in ("2026-10-20", "2026-10-30", "2026-11-01", "2026-11-02", "2026-11-20", "2026-12-01"):
        for hour in (8, 12, 16):
            now = database_clock.set(f"{day}T{hour:02}:00:00Z")
            for occurred_at in (None, now.replace(month=10, day=19)):
                report(shuffled.randrange(1, 4), occurred_at=occurred_at)
            report(2, customer_id=456)
    return list(Bill.objects.filter(customer=123))


@pytest.mark.parametrize("ordering", [NEWEST_FIRST, OLDEST_FIRST])
def test_the_first_records_are_those_of_all_bills_in_order(
    bills: list[Bill], ordering: tuple[str, ...]
) -> None:
    assert len(bills) == 3
    records = UsageRecord.objects.filter(customer=123).order_by(*ordering)
    everything = list(records.values_list("recorded_at", "request_id", "bill_id"))

    for count in range(1, len(everything) + 2):
        found = first_of_customer(UsageRecord.objects.all(), 123, ordering, count, "bill_id")
        assert found == everything[:count]


def test_of_a_long_history_only_the_newest_bill_is_read(bills: list[Bill]) -> None:
    with queries() as statements:
        first_of_customer(UsageRecord.objects.all(), 123, NEWEST_FIRST, 2)

    assert len(statements) == 2  # the bills, and one of them


@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("query", "looked_through"),
    [({}, 5_000), ({"service": "Database Hosting"}, 14), ({"late": 1}, 5_000)],
)
def test_the_list_of_a_customer_has_each_record_once(
    admin_client: Client,
    bills: list[Bill],
    monkeypatch: pytest.MonkeyPatch,
    query: dict[str, object],
    looked_through: int,
) -> None:
    monkeypatch.setattr(BillingAdmin, "list_per_page", 9)
    monkeypatch.setattr(record_list, "LOOKED_THROUGH", looked_through)
    late = {"late": True} if "late" in query else {}
    everything = UsageRecord.objects.filter(customer=123, **late).order_by(*NEWEST_FIRST)

    shown = pages(admin_client, list_of("usagerecord", customer=123, **query))

    assert [pk for page in shown for pk in page] == [record.pk for record in everything]


def test_no_statement_of_the_list_goes_through_the_records_of_all_customers(
    admin_client: Client, bills: list[Bill]
) -> None:
    with queries() as statements:
        admin_client.get(list_of("usagerecord", customer=123))
        admin_client.get(list_of("usagerecord", customer=123, service="Database Hosting"))

    read = about_records(statements)
    assert len(read) >= 5
    for sql in read:
        plan = plan_of(sql)
        by_id = "request_id" in sql.partition("WHERE")[2].partition("ORDER BY")[0]
        assert by_id or "record_by_bill" in plan, f"{sql}\n{plan}"
        assert "record_by_time" not in plan, f"{sql}\n{plan}"


def plan_of(sql: str) -> str:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # Of so few rows it would rather read all; these are the sizes of real tables.
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("UPDATE pg_class SET reltuples = 3e6 WHERE relname = 'usage_bill'")
            cursor.execute(
                "UPDATE pg_class SET reltuples = 1e9, relpages = 2e7"
                " WHERE relname = 'usage_usagerecord'"
            )
            cursor.execute(f"EXPLAIN {sql}")
        else:
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
        return "\n".join(str(row[-1]) for row in cursor.fetchall())


def test_all_records_of_a_customer_are_voided_whatever_their_bills(bills: list[Bill]) -> None:
    call_command("void_records", "--customer", "123", "--reason", "A test.", "--apply")

    records = UsageRecord.objects.filter(customer=123, voids__isnull=True)
    voided = UsageRecord.objects.filter(customer=123, voids__isnull=False)
    assert sorted(void.voids_id for void in voided) == sorted(record.pk for record in records)
    assert not UsageRecord.objects.filter(customer=456, voids__isnull=False)


def test_of_one_bill_the_records_on_others_are_not_read(bills: list[Bill]) -> None:
    options = ["--customer", "123", "--bill", f"{bills[0].pk}", "--reason", "A test."]
    with queries() as statements:
        call_command("void_records", *options)

    assert len(about_records(statements)) == 2  # the records, and that none are left
