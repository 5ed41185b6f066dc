"""A month's closed bills go to finance in two files, which add up and stay the same."""

import csv
import io
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from usage.ledger.close import close
from usage.ledger.void import void
from usage.models import Bill, Customer, UsageRecord
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.tests.staff import queries, report, staff, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def september(customer: Customer, database_clock: DatabaseClock) -> None:
    """Two bills in dollars and one in yen, closed in October; one is open."""
    CustomerFactory.create(id=456, name="=Bob", reference="D-456")
    CustomerFactory.create(id=500, currency="JPY")
    CustomerFactory.create(id=600)
    database_clock.set("2026-09-20T12:00:00Z")
    report(3, units=Decimal("0.1"))
    report(customer_id=456, service="a", units=Decimal(1), price_per_unit=Decimal("0.004"))
    report(customer_id=456, service="b", units=Decimal(1), price_per_unit=Decimal("0.004"))
    report(customer_id=500, price_per_unit=Decimal("0.5"))
    report(customer_id=600)
    database_clock.set("2026-10-05T12:00:00Z")
    for bill in Bill.objects.exclude(customer=600).order_by("pk"):
        close(bill, by="Sam")


def bytes_of(client: Client, kind: str) -> bytes:
    response: Any = client.get(reverse(f"admin:usage_bill_month_{kind}", args=["2026-09"]))
    assert f'filename="bills-2026-09-{kind}.csv"' in response["Content-Disposition"]
    return b"".join(response.streaming_content)


def rows_of(client: Client, kind: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(bytes_of(client, kind).decode())))


def test_the_file_has_one_row_for_each_closed_bill(admin_client: Client) -> None:
    rows = rows_of(admin_client, "closed")

    assert [row["customer_id"] for row in rows] == ["123", "456", "500"]
    bob = rows[1]
    bill = Bill.objects.get(customer=456)
    assert bob["statement_number"] == f"2026-09-{bill.pk}"
    assert (bob["customer"], bob["reference"], bob["closed_by"]) == ("'=Bob", "D-456", "Sam")
    assert (bob["period_start"], bob["closed_at"]) == (
        "2026-09-01T00:00:00.000+00:00",
        "2026-10-05T12:00:00.000+00:00",
    )
    assert (bob["records"], bob["total"], bob["exact_amount"], bob["rounding"]) == (
        "2",
        "0.00",
        "0.008",
        "-0.008",
    )


def test_the_control_totals_are_the_sums_of_the_file(admin_client: Client) -> None:
    rows, control = rows_of(admin_client, "closed"), rows_of(admin_client, "control")

    assert [row["currency"] for row in control] == ["JPY", "USD"]
    for currency in control:
        of_currency = [row for row in rows if row["currency"] == currency["currency"]]
        assert int(currency["bills"]) == len(of_currency)
        for column in ("records", "total", "exact_amount", "rounding"):
            total = sum(Decimal(row[column]) for row in of_currency)
            assert Decimal(currency[column]) == total, column


def test_the_page_shows_the_control_totals_and_the_open_bills(admin_client: Client) -> None:
    page = text_of(admin_client.get(reverse("admin:usage_bill_month", args=["2026-09"])))

    for said in ("JPY", ">¥29<", "USD", ">$0.02<", "$0.023", "−$0.003", "1 bill", "still open"):
        assert said in page, said
    for kind in ("closed", "control"):
        assert f"bills-2026-09-{kind}.csv" in page


def test_the_files_stay_the_same_once_the_month_is_closed(
    admin_client: Client, database_clock: DatabaseClock
) -> None:
    close(Bill.objects.open().get(), by="Sam")
    before = [bytes_of(admin_client, kind) for kind in ("closed", "control")]

    database_clock.set("2026-11-05T12:00:00Z")
    void(UsageRecord.objects.filter(customer=123).first(), reason="Sent twice.", by="Kim")  # type: ignore[arg-type]
    Customer.objects.update(name="Renamed", reference="D-0")
    report(occurred_at=Bill.objects.get(customer=600).period_start, customer_id=600)

    assert [bytes_of(admin_client, kind) for kind in ("closed", "control")] == before


def test_the_file_costs_the_same_for_each_chunk_of_bills(admin_client: Client) -> None:
    bytes_of(admin_client, "closed")
    with queries() as statements:
        bytes_of(admin_client, "closed")

    assert len(statements) <= 8


def test_the_list_of_a_month_leads_to_its_hand_over(admin_client: Client) -> None:
    url = reverse("admin:usage_bill_month", args=["2026-09"])

    assert url in text_of(admin_client.get("/admin/usage/bill/?month=2026-09"))
    assert "Hand-over" not in text_of(admin_client.get("/admin/usage/bill/"))


@pytest.mark.parametrize("month", ["2026-13", "September", "2026-9", "x" * 5000])
def test_what_is_not_a_month_is_not_found(admin_client: Client, month: str) -> None:
    assert admin_client.get(reverse("admin:usage_bill_month", args=[month])).status_code == 404


@pytest.mark.parametrize("name", ["month", "month_closed", "month_control"])
def test_who_may_see_bills_may_hand_them_over(name: str) -> None:
    address = reverse(f"admin:usage_bill_{name}", args=["2026-09"])

    viewer = staff("view_bill")
    shown: Any = viewer.get(address)
    assert shown.status_code == 200
    assert b"".join(shown.streaming_content if shown.streaming else shown)
    assert viewer.post(address).status_code == 405
    viewer.logout()
    assert viewer.get(address).status_code == 302
