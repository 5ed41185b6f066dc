"""The first page says how the month goes, and what needs attention."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from usage.ledger.close import close
from usage.ledger.void import void
from usage.models import Bill, Customer, HistoryEntry
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.tests.staff import list_of, page_of, report, staff, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def now(database_clock: DatabaseClock) -> dt.datetime:
    return database_clock.set("2026-11-23T12:00:00Z")


@pytest.fixture
def bill(customer: Customer) -> Bill:
    return report()


def shown(client: Client, currency: str = "") -> Any:
    """Return what the first page shows."""
    return client.get("/admin/", {"currency": currency}).context


def spend(amount: int, **values: Any) -> Bill:
    return report(**{"units": Decimal(amount), "price_per_unit": Decimal(1), **values})


def test_a_quiet_day(admin_client: Client) -> None:
    page = text_of(admin_client.get("/admin/"))

    for said in (
        "No usage was recorded this month or the last.",
        "No bill is open.",
        "No bill is due.",
        "No customer's prices have changed",
        "No usage was late this month.",
        "Nothing has been done yet.",
    ):
        assert said in page
    assert "Usage billing" in page


# The month so far


def test_the_month_so_far_is_compared_with_last_month_up_to_the_same_day(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    for day, amount in (("10", 40), ("23", 60), ("24", 1000)):
        spend(amount, occurred_at=database_clock.set(f"2026-10-{day}T12:00:00Z"))
    spend(150, occurred_at=database_clock.set("2026-11-23T12:00:00Z"))

    accrued = shown(admin_client)["accrued"]

    assert (accrued["amount"], accrued["before"], accrued["change"]) == (
        "$150.00",
        "$100.00",
        "+50.0\N{NO-BREAK SPACE}%",
    )


def test_the_last_day_of_a_longer_month_is_compared_with_that_of_a_shorter(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    spend(7, occurred_at=database_clock.set("2027-02-28T12:00:00Z"))
    database_clock.set("2027-03-31T12:00:00Z")
    spend(7)

    context = shown(admin_client)

    assert context["same_day"] == "28 February"
    assert context["accrued"]["before"] == "$7.00"


def test_currencies_are_never_added_together(admin_client: Client, customer: Customer) -> None:
    spend(10)
    spend(500, customer_id=CustomerFactory.create(currency="JPY").pk)
    spend(3, customer_id=CustomerFactory.create(currency="KWD").pk)
    spend(4, customer_id=CustomerFactory.create(currency="KWD").pk)

    context = shown(admin_client)

    assert context["accrued"]["amount"] == "KWD\N{NO-BREAK SPACE}7.000"  # of most bills
    assert [other["amount"] for other in context["other_currencies"]] == ["¥500", "$10.00"]
    yen = shown(admin_client, "JPY")
    assert yen["accrued"]["amount"] == "¥500"
    assert [row["amount"] for row in yen["services"]] == ["¥500"]
    assert [row["total"] for row in yen["largest"]] == ["¥500"]
    assert sum(bar.value.amount for bar in yen["chart"].bars) == 500


def test_an_unknown_currency_is_ignored(admin_client: Client, bill: Bill) -> None:
    assert shown(admin_client, "<script>")["accrued"]["currency"] == "USD"


def test_the_chart_has_the_last_31_days_and_marks_today(
    admin_client: Client, customer: Customer, now: dt.datetime, database_clock: DatabaseClock
) -> None:
    for days in (31, 30, 1):
        spend(days, occurred_at=database_clock.set(f"{now - dt.timedelta(days=days):%FT12:00:00Z}"))
    database_clock.set("2026-11-23T12:00:00Z")

    bars = [bar.value for bar in shown(admin_client)["chart"].bars]

    assert [bar.label for bar in (bars[0], bars[-1])] == ["2026-10-24", "2026-11-23"]
    assert [bar.label for bar in bars if bar.mark == "today"] == ["2026-11-23"]
    assert [bar.amount for bar in bars if bar.amount] == [30, 1]
    assert len(bars) == 31


def test_the_chart_leaves_out_the_days_of_months_that_are_not_read(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    spend(7, occurred_at=database_clock.set("2027-01-30T12:00:00Z"))
    database_clock.set("2027-03-01T12:00:00Z")
    spend(7)

    bars = [bar.value for bar in shown(admin_client)["chart"].bars]

    assert (bars[0].label, len(bars)) == ("2027-02-01", 29)


def test_the_bars_lead_to_the_records_of_their_days(
    admin_client: Client, customer: Customer
) -> None:
    report(units=Decimal("0.001"), price_per_unit=Decimal("0.001"))

    bar = shown(admin_client)["chart"].bars[-1].value

    assert admin_client.get(bar.url).context["summary"] == "1 record: $0.000001"


def test_the_overview_says_by_how_much_the_bills_differ_by_rounding(
    admin_client: Client, customer: Customer
) -> None:
    for service in ("a", "b"):
        report(service=service, units=Decimal(1), price_per_unit=Decimal("0.006"))

    assert shown(admin_client)["accrued"]["rounding"] == "$0.008"


def test_services_are_listed_by_amount_and_those_left_out_are_added_up(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    spend(5, service="S3", occurred_at=database_clock.set("2026-10-23T12:00:00Z"))
    database_clock.set("2026-11-23T12:00:00Z")
    for number in range(1, 13):
        spend(number, service=f"S{number}")

    rows = shown(admin_client)["services"]

    assert [row["service"] for row in rows] == [
        *(f"S{number}" for number in range(12, 2, -1)),
        "2 others",
    ]
    assert [row["amount"] for row in rows[-2:]] == ["$3.00", "$3.00"]
    assert (rows[-2]["before"], rows[-2]["change"]) == ("$5.00", "−40.0\N{NO-BREAK SPACE}%")
    assert sum(row["share"] for row in rows) == pytest.approx(100, abs=0.6)


# Bills


def test_bills_are_counted_by_state(
    admin_client: Client, bill: Bill, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-12-10T12:00:00Z")
    report(customer_id=CustomerFactory.create().pk)
    close(report(customer_id=CustomerFactory.create().pk), by="Sam")

    context = shown(admin_client)

    states = ("open", "due", "closed")
    assert [context[f"{state}_bills"] for state in states] == ["2", "1", "1"]


def test_due_bills_are_listed(
    admin_client: Client, bill: Bill, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-12-10T12:00:00Z")
    report(customer_id=CustomerFactory.create().pk)

    (row,) = shown(admin_client)["due"]

    assert (row["url"], row["period"], row["total"]) == (page_of(bill), "November 2026", "$2.90")


def test_the_largest_open_bills_are_listed(admin_client: Client) -> None:
    bills = [
        spend(amount, customer_id=CustomerFactory.create().pk)
        for amount in (*range(1, 12), 100, 50)
    ]
    close(bills[-2], by="Sam")

    rows = shown(admin_client)["largest"]

    assert [row["total"] for row in rows] == [
        "$50.00",
        *(f"${amount}.00" for amount in range(11, 2, -1)),
    ]
    assert rows[0]["url"] == page_of(bills[-1])


def test_a_largest_bill_shows_its_own_total_and_not_the_exact_amount(
    admin_client: Client, customer: Customer
) -> None:
    for service in ("a", "b"):
        bill = report(service=service, units=Decimal("0.005"), price_per_unit=Decimal(1))

    assert [row["total"] for row in shown(admin_client)["largest"]] == ["$0.02"]
    assert bill.total == Decimal("0.02")
    assert shown(admin_client)["accrued"]["amount"] == "$0.01"


# Prices


def test_prices_of_one_service_that_are_more_than_twice_another_are_shown(
    admin_client: Client, customer: Customer
) -> None:
    for service, prices in {"twice": "1 2", "more": "1 2.000001", "free": "0 1"}.items():
        for price in prices.split():
            report(service=service, price_per_unit=Decimal(price))

    rows = shown(admin_client)["prices"]

    assert [(row["service"], row["prices"]) for row in rows] == [
        ("free", "$0.00 to $1.00"),
        ("more", "$1.00 to $2.000001"),
    ]


def test_other_customers_prices_are_their_own(admin_client: Client, customer: Customer) -> None:
    spend(1)
    report(price_per_unit=Decimal(9), customer_id=CustomerFactory.create().pk)

    assert shown(admin_client)["prices"] == []


def test_prices_that_are_not_those_of_last_month_are_shown(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-10-23T12:00:00Z")
    for service in ("same", "changed", "ended"):
        spend(1, service=service)
    database_clock.set("2026-11-23T12:00:00Z")
    for service, price in (("same", "1"), ("changed", "1.1"), ("new", "5")):
        report(service=service, price_per_unit=Decimal(price))

    (row,) = shown(admin_client)["prices"]

    assert (row["service"], row["prices"], row["before"]) == ("changed", "$1.10", "$1.00")
    assert len(admin_client.get(row["url"]).context["cl"].result_list) == 2


def test_ten_prices_are_shown_and_that_there_are_more(
    admin_client: Client, customer: Customer
) -> None:
    for number in range(11):
        for price in (1, 3):
            report(service=f"S{number}", price_per_unit=Decimal(price))

    context = shown(admin_client)

    assert (len(context["prices"]), context["more_prices"]) == (10, True)
    assert "There are more." in text_of(admin_client.get("/admin/"))


# Late usage and what was done


def test_late_usage_of_this_month_and_what_was_done_are_shown(
    admin_client: Client, bill: Bill, database_clock: DatabaseClock
) -> None:
    admin_client.post(page_of(bill, "close"), {"expected_total": "2.9"})
    report(request_id="late", occurred_at=bill.period_start)

    context = shown(admin_client)

    assert [record["request_id"] for record in context["late_records"]] == ["late"]
    assert [(entry["did"], entry["bill_url"]) for entry in context["done"]] == [
        ("closed the bill", page_of(bill))
    ]
    assert HistoryEntry.objects.count() == 1
    database_clock.set("2026-12-01T00:00:00Z")
    assert not shown(admin_client)["late_records"]


def test_a_void_on_another_bill_is_one_act(admin_client: Client, bill: Bill) -> None:
    close(bill, by="Sam")
    void(bill.records.get(), reason="Wrong.", by="Sam")

    assert HistoryEntry.objects.filter(action="voided").count() == 2
    assert [entry["did"] for entry in shown(admin_client)["done"]] == [
        "voided a record",
        "closed the bill",
    ]


# Who sees what


def test_it_shows_only_what_the_user_may_see(bill: Bill) -> None:
    page = text_of(staff("view_customer").get("/admin/"))

    for hidden in ("Accrued", "Due to close", "Late usage", "Unit prices", "Recent activity", "$"):
        assert hidden not in page
    assert list_of("customer") in page
