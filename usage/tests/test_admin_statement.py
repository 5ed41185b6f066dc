"""A bill's statement: the page that is printed for the customer."""

from decimal import Decimal

import pytest
from django.db import connection
from django.test import Client
from pytest_django.fixtures import Settings

from usage.admin.statement import LINES_SHOWN, VOIDS_SHOWN
from usage.ledger.close import close
from usage.ledger.void import void
from usage.models import Bill, Customer, UsageRecord
from usage.tests.conftest import DatabaseClock
from usage.tests.staff import about_records, page_of, queries, report, staff, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def bill(customer: Customer, database_clock: DatabaseClock) -> Bill:
    database_clock.set("2026-10-20T12:00:00Z")
    Customer.objects.update(reference="D-4711")
    bill = report(3, service="Storage")
    database_clock.set("2026-11-05T12:00:00Z")
    return bill


def statement_of(client: Client, bill: Bill) -> str:
    return text_of(client.get(page_of(bill, "statement")))


def test_a_closed_bill_has_a_statement(
    admin_client: Client, bill: Bill, settings: Settings
) -> None:
    settings.SELLER = ["Cloud <Ltd>", "1 Main Street"]
    close(bill, by="Sam")

    page = statement_of(admin_client, bill)

    for said in (
        *("Cloud &lt;Ltd&gt;", "1 Main Street", "Alice", "Customer 123", "D-4711"),
        *(f"2026-10-{bill.pk}", "2026-11-05", "2026-10-01 to 2026-10-31", "USD"),
        *("Storage", "$0.05", "174", "$8.70"),
    ):
        assert said in page, said
    for internal in ("DRAFT", "badge", "exact", "Rounding"):
        assert internal not in page.partition("<article")[2].partition("</article>")[0], internal
    assert page.count("Total in USD") == 1


def test_the_statement_of_an_open_bill_is_a_draft(admin_client: Client, bill: Bill) -> None:
    page = statement_of(admin_client, bill)

    assert "DRAFT" in page
    assert "not yet" in page


def test_amounts_are_rounded(admin_client: Client, customer: Customer) -> None:
    bill = report(service="Storage", units=Decimal("0.001"), price_per_unit=Decimal(7))

    page = statement_of(admin_client, bill)

    assert "$0.01" in page
    assert "$0.007" not in page


def test_a_renamed_customer_keeps_the_old_name_on_the_statements_of_closed_bills(
    admin_client: Client, bill: Bill
) -> None:
    close(bill, by="Sam")
    Customer.objects.update(name="Alice Holding", reference="D-9")

    page = statement_of(admin_client, bill)

    assert "Alice Holding" not in page
    assert "D-4711" in page
    assert "D-9" not in page


def test_an_open_bill_has_the_name_of_today(admin_client: Client, bill: Bill) -> None:
    Customer.objects.update(name="Alice Holding")

    assert "Alice Holding" in statement_of(admin_client, bill)


def test_voids_are_listed_with_rounded_amounts(admin_client: Client, bill: Bill) -> None:
    record = UsageRecord.objects.order_by("pk").first()
    assert record
    void(record, reason="Sent twice.", by="Sam")
    bill = record.bill

    page = statement_of(admin_client, bill)

    assert record.pk in page
    assert "−$2.90" in page
    assert "Sent twice." not in page


def test_many_voids_are_cut_and_the_page_says_so(admin_client: Client, customer: Customer) -> None:
    bill = report(VOIDS_SHOWN + 1)
    for record in list(bill.records.all()):
        void(record, reason="Sent twice.", by="Sam")

    page = statement_of(admin_client, bill)

    assert page.count("−$2.90") == VOIDS_SHOWN
    assert f"The first {VOIDS_SHOWN} cancelled records" in page


def test_the_voids_of_other_bills_are_not_listed(admin_client: Client, bill: Bill) -> None:
    record = UsageRecord.objects.first()
    assert record
    close(bill, by="Sam")
    void(record, reason="Sent twice.", by="Sam")

    assert record.pk not in statement_of(admin_client, bill)


def test_more_lines_than_are_shown_become_one_for_each_service(
    admin_client: Client, customer: Customer
) -> None:
    prices = [Decimal(number + 1) / 1000 for number in range(LINES_SHOWN)]
    for price in prices:
        bill = report(service="CDN", price_per_unit=price, units=Decimal(1000))
    bill = report(service="Storage", units=Decimal(1), price_per_unit=Decimal(3))

    response = admin_client.get(page_of(bill, "statement"))

    rows = response.context["lines"]
    assert [(row.service, row.price, row.units, row.amount) for row in rows] == [
        ("CDN", "several", "500,000", "$125,250.00"),
        ("Storage", "$3.00", "1", "$3.00"),
    ]
    assert f"bill-{bill.pk}-{bill.month:%Y-%m}-lines.csv" in text_of(response)


def test_a_statement_stays_below_500_kilobytes(admin_client: Client, customer: Customer) -> None:
    for number in range(LINES_SHOWN + 20):
        bill = report(service=f"{'漢' * 90}{number}", request_id=f"{'<' * 100}{number}")
    for record in bill.records.all()[: VOIDS_SHOWN + 1]:
        void(record, reason="Sent twice.", by="Sam")

    response = admin_client.get(page_of(bill, "statement"))

    assert len(response.content) < 500_000
    assert response.context["lines"][-1].service == "21 other services"


def test_a_statement_costs_the_same_at_any_number_of_records(
    admin_client: Client, bill: Bill
) -> None:
    admin_client.get(page_of(bill, "statement"))

    with queries() as statements:
        admin_client.get(page_of(bill, "statement"))

    assert len(statements) <= 15
    (voids,) = about_records(statements)
    assert "LIMIT" in voids


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL reads small tables whole")
def test_the_voids_are_found_by_their_own_index(admin_client: Client, bill: Bill) -> None:
    with queries() as statements:
        admin_client.get(page_of(bill, "statement"))

    (voids,) = about_records(statements)
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {voids}")
        plan = " ".join(row[3] for row in cursor.fetchall())
    assert "INDEX record_voids" in plan


@pytest.mark.parametrize(("permission", "status"), [("view_bill", 200), ("view_customer", 403)])
def test_who_may_see_bills_may_see_statements(bill: Bill, permission: str, status: int) -> None:
    assert staff(permission).get(page_of(bill, "statement")).status_code == status


def test_a_statement_is_only_read(admin_client: Client, bill: Bill) -> None:
    assert admin_client.post(page_of(bill, "statement")).status_code == 405
