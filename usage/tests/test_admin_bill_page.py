"""A bill's page says how much, how it came about, and what will become of it."""

import datetime as dt
from decimal import Decimal
from operator import itemgetter
from typing import Any

import pytest
from django.test import Client

from usage.admin.bill_page import LINES_SHOWN
from usage.admin.charts import Value, bar_chart
from usage.admin.rows import period_of
from usage.ledger.close import close
from usage.ledger.void import void
from usage.models import Bill, Customer, UsageRecord
from usage.tests.conftest import DatabaseClock
from usage.tests.staff import page_of, report, staff, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def now(database_clock: DatabaseClock) -> dt.datetime:
    return database_clock.set("2026-11-11T00:00:00Z")


def shown(client: Client, bill: Bill) -> Any:
    """Return what the page of a bill shows."""
    return client.get(page_of(bill)).context


def spend(amount: int, **values: Any) -> Bill:
    return report(units=Decimal(amount), price_per_unit=Decimal(1), **values)


def test_the_projection_goes_on_as_the_bill_began(admin_client: Client, customer: Customer) -> None:
    bill = spend(100)

    assert shown(admin_client, bill)["projection"] == "$300.00"
    assert shown(admin_client, bill)["days_left"] == 20


def test_late_usage_and_its_voids_are_not_projected_to_go_on(
    admin_client: Client, customer: Customer, now: dt.datetime
) -> None:
    spend(100)
    spend(500, request_id="wrong", occurred_at=now - dt.timedelta(days=40))
    bill = spend(7, occurred_at=now - dt.timedelta(days=40))
    assert shown(admin_client, bill)["projection"] == "$807.00"

    void(UsageRecord.objects.get(pk="wrong"), reason="Counted twice.", by="Sam")

    assert shown(admin_client, bill)["projection"] == "$307.00"


def test_nothing_is_projected_from_less_than_a_day(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-11-01T23:00:00Z")

    assert shown(admin_client, spend(100))["projection"] == ""


@pytest.mark.parametrize("instant", ["2026-11-30T23:59:59Z", "2026-12-01T00:00:00Z"])
def test_the_last_day_is_left_until_it_is_over(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock, instant: str
) -> None:
    bill = spend(100)
    database_clock.set(instant)

    assert shown(admin_client, bill)["days_left"] == (1 if "30T" in instant else None)


def test_a_closed_bill_has_no_days_left(admin_client: Client, customer: Customer) -> None:
    bill = spend(100)
    close(bill, by="Sam")

    context = shown(admin_client, bill)

    assert (context["days_left"], context["projection"]) == (None, "")


def test_the_bills_before_and_after_are_a_click_away(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    first = spend(100)
    close(first, by="Sam")
    second = spend(150)

    assert "before" not in shown(admin_client, first)
    assert shown(admin_client, first)["after"]["url"] == page_of(second)
    assert shown(admin_client, first)["dates"] == "2026-11-01 to 2026-11-10"
    before = shown(admin_client, second)["before"]
    assert before == {
        "url": page_of(first),
        "period": "2026-11-01 to 2026-11-10",
        "total": "$100.00",
        "change": "+50.0\N{NO-BREAK SPACE}%",
    }


def test_bills_of_one_month_share_no_instant(
    customer: Customer, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-11-23T12:34:56.789Z")
    first = spend(100)
    close(first, by="Sam")
    second = spend(150)

    assert period_of(first) == "2026-11-01 to 2026-11-23 12:34:56"
    assert period_of(second) == "2026-11-23 12:34:56 to 2026-11-30"


def test_a_month_closed_on_its_first_day_is_not_whole(
    customer: Customer, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-11-01T03:00:00Z")
    close(spend(100), by="Sam")

    assert period_of(spend(1)) == "2026-11-01 03:00:00 to 2026-11-30"


@pytest.mark.parametrize(
    ("total", "change"), [(50, "−50.0\N{NO-BREAK SPACE}%"), (100, "+0.0\N{NO-BREAK SPACE}%")]
)
def test_the_change_has_its_sign(
    admin_client: Client, customer: Customer, total: int, change: str
) -> None:
    close(spend(100), by="Sam")

    assert shown(admin_client, spend(total))["before"]["change"] == change


def test_a_change_beyond_measure_is_said_in_words(admin_client: Client, customer: Customer) -> None:
    close(spend(1), by="Sam")

    assert shown(admin_client, spend(11))["before"]["change"] == "over 10 times"


def test_there_is_no_change_in_per_cent_from_nothing(
    admin_client: Client, customer: Customer
) -> None:
    close(report(price_per_unit=Decimal(0)), by="Sam")

    assert shown(admin_client, spend(5))["before"]["change"] == ""


def test_the_chart_has_a_bar_for_every_day_and_one_for_what_came_before(
    admin_client: Client, customer: Customer, now: dt.datetime
) -> None:
    close(spend(9), by="Sam")
    october = now - dt.timedelta(days=40)
    bill = spend(5, occurred_at=now)
    spend(7, occurred_at=october)

    bars = [bar.value for bar in shown(admin_client, bill)["chart"].bars]

    assert [bar[:2] for bar in bars[:2]] == [("earlier", 7), ("2026-11-11", 5)]
    assert [bar.label for bar in bars if bar.mark == "today"] == ["2026-11-11"]
    assert len(bars) == 21


def test_the_chart_is_a_table_too(admin_client: Client, customer: Customer) -> None:
    page = text_of(admin_client.get(page_of(spend(5))))

    assert ">2026-11-11</a> (today)</th>" in page
    assert page.count('<td class="figure">$0.00</td>') >= 29


def test_the_days_add_up_to_the_exact_amount(
    admin_client: Client, customer: Customer, now: dt.datetime
) -> None:
    for days in range(5):
        bill = report(
            units=Decimal("0.000001"),
            price_per_unit=Decimal("0.000000000001"),
            occurred_at=now - dt.timedelta(days=days),
        )

    bars = shown(admin_client, bill)["chart"].bars

    assert sum(bar.value.amount for bar in bars) == Decimal("5e-18")


def test_why_this_much_is_two_clicks(admin_client: Client, customer: Customer) -> None:
    report(request_id="wanted", service="R&D?", price_per_unit=Decimal("0.5"))
    report(service="R&D?", price_per_unit=Decimal("0.25"))
    bill = report(service="Other")

    line = next(row for row in shown(admin_client, bill)["lines"] if row["price"] == "$0.50")
    records = admin_client.get(line["records_url"])

    assert [record.pk for record in records.context["cl"].result_list] == ["wanted"]
    assert page_of(UsageRecord.objects.get(pk="wanted")) in text_of(records)


def test_shares_are_of_what_is_charged(admin_client: Client, customer: Customer) -> None:
    spend(30, service="Compute")
    spend(10, service="Storage")
    bill = spend(5, request_id="wrong", service="Voided")
    void(UsageRecord.objects.get(pk="wrong"), reason="A test.", by="Sam")

    assert [row["share"] for row in shown(admin_client, bill)["lines"]] == [75.0, 25.0, 0.0]


def test_the_smaller_of_many_lines_are_one_row_until_all_are_requested(
    admin_client: Client, customer: Customer
) -> None:
    for number in range(LINES_SHOWN + 2):
        bill = spend(100 - number, service=f"S{number:02}")

    context = shown(admin_client, bill)

    assert [row["service"] for row in context["lines"]] == [f"S{n:02}" for n in range(LINES_SHOWN)]
    assert context["other_lines"] == {"number": "2", "records": "2", "amount": "$119.00"}
    assert context["sums"]["total"] == "$3,339.00"
    everything = admin_client.get(page_of(bill), {"lines": "all"}).context
    assert len(everything["lines"]) == LINES_SHOWN + 2
    assert everything["other_lines"] is None


def test_a_large_credit_is_not_a_small_line(admin_client: Client, customer: Customer) -> None:
    bill = spend(1000, request_id="wrong", service="A credit")
    close(bill, by="Sam")
    void(UsageRecord.objects.get(pk="wrong"), reason="A test.", by="Sam")
    for number in range(LINES_SHOWN):
        bill = spend(1 + number, service=f"S{number:02}")

    context = shown(admin_client, bill)

    assert context["lines"][0]["amount"] == "−$1,000.00"
    assert context["other_lines"] == {"number": "1", "records": "1", "amount": "$1.00"}


def test_a_bill_of_nothing_is_shown(admin_client: Client, customer: Customer) -> None:
    bill = report(price_per_unit=Decimal(0))

    context = shown(admin_client, bill)

    assert context["sums"]["total"] == "$0.00"
    assert [row["share"] for row in context["lines"]] == [0.0]


@pytest.mark.parametrize(
    ("amounts", "said"),
    [
        ([], ["0", "1"]),
        ([0], ["0", "1"]),
        ([3, 8], ["0", "2", "4", "6", "8"]),
        ([-5, 5], ["−5", "−2.5", "0", "2.5", "5"]),
        (["0.0003"], ["0", "0.0001", "0.0002", "0.0003"]),
        ([1_500_000], ["0", "500k", "1M", "1.5M"]),
        ([10**15], ["0", "250T", "500T", "750T", "1000T"]),
    ],
)
def test_the_scale_is_round_and_holds_every_bar(amounts: list[Any], said: list[str]) -> None:
    chart = bar_chart([Value("x", Decimal(amount), "") for amount in amounts])

    assert [tick.said for tick in chart.ticks] == said
    assert all(
        chart.ticks[-1].y <= bar.y and bar.y + bar.height <= chart.ticks[0].y + 0.1
        for bar in chart.bars
    )


def test_a_bar_far_over_all_others_is_cut_and_says_so() -> None:
    values = [
        Value(f"{day}", Decimal(amount), f"${amount}") for day, amount in enumerate((1, 2, 99))
    ]

    bars = bar_chart(values).bars

    assert [bar.is_cut for bar in bars] == [False, False, True]
    assert bars[1].height > bars[2].height / 2


def test_a_bar_ten_times_the_next_is_whole() -> None:
    values = [Value(f"{day}", Decimal(amount), "") for day, amount in enumerate((1, 10))]

    assert not any(bar.is_cut for bar in bar_chart(values).bars)


def test_a_day_leads_to_its_records(
    admin_client: Client, customer: Customer, now: dt.datetime
) -> None:
    close(spend(9), by="Sam")
    spend(7, occurred_at=now - dt.timedelta(days=40))
    bill = spend(5, occurred_at=now)

    bars = {bar.value.label: bar.value for bar in shown(admin_client, bill)["chart"].bars}

    for label in ("earlier", "2026-11-11"):
        (record,) = admin_client.get(bars[label].url).context["cl"].result_list
        assert record.amount == bars[label].amount
    assert bars["2026-11-30"].url == ""


def test_a_line_shows_last_month_and_the_change(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-10-10T12:00:00Z")
    spend(10)
    database_clock.set("2026-11-11T12:00:00Z")
    spend(15)
    bill = spend(1, service="New")

    of_last_month = itemgetter("units_before", "amount_before", "change")
    new, old = sorted(of_last_month(line) for line in shown(admin_client, bill)["lines"])

    assert old == ("10", "$10.00", "+50.0\N{NO-BREAK SPACE}%")
    assert new == ("", "", "")


def test_all_lines_are_500_at_most(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage.admin.bill_page.MOST_LINES", 45)
    for number in range(50):
        bill = report(service=f"S{number}")

    response = admin_client.get(page_of(bill), {"lines": "all"})

    assert len(response.context["lines"]) == 45
    assert "5 smaller lines, all of them in the CSV" in text_of(response)


def test_without_the_permission_to_see_records_no_link_leads_there(
    admin_client: Client, customer: Customer
) -> None:
    bill = spend(5)

    page = text_of(staff("view_bill").get(page_of(bill)))

    assert "/admin/usage/usagerecord/" not in page
