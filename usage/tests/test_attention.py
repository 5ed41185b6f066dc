"""What needs attention is found, and honest usage raises no alarm."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from django.conf import LazySettings

from usage.attention.bills import examine
from usage.attention.duplicates import find_duplicates, twins_of
from usage.attention.findings import Examined, Kind
from usage.attention.keys import silent_keys
from usage.ledger.close import close
from usage.ledger.void import void
from usage.models import AcceptedDuplicates, ApiKey, Bill, Customer, Traffic, UsageRecord
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.tests.staff import queries, report

pytestmark = pytest.mark.django_db


class Company:
    """One customer's usage over months; each instant is the database's time."""

    def __init__(self, clock: DatabaseClock) -> None:
        self.clock = clock
        self.now = clock.set("2026-08-01T00:00:00Z")

    def at(self, day: str) -> dt.datetime:
        self.now = self.clock.set(f"{day}T12:00:00Z")
        return self.now

    def uses(self, day: str, amount: str, **values: Any) -> Bill:
        now = self.at(day)
        values = {"units": Decimal(amount), "price_per_unit": Decimal(1), **values}
        return report(occurred_at=now, **values)

    def examined(self) -> Examined:
        bill = Bill.objects.open().select_related("customer").order_by("-period_start").first()
        assert bill is not None
        return examine([bill], self.now)[bill.pk]

    def found(self, *ignored: Kind) -> list[Kind]:
        return [f.kind for f in self.examined().findings if f.kind not in {Kind.DUE, *ignored}]


@pytest.fixture
def company(customer: Customer, database_clock: DatabaseClock) -> Company:
    return Company(database_clock)


MONTHS = ("2026-08", "2026-09", "2026-10")


def three_months(company: Company, amount: str = "200", day: str = "10") -> None:
    for month in MONTHS:
        company.uses(f"{month}-{day}", amount)


# Totals


def test_over_three_times_the_average_is_unusual(company: Company) -> None:
    three_months(company)
    company.uses("2026-11-20", "600.01")

    (finding,) = company.examined().findings

    assert (finding.kind, finding.amount) == (Kind.HIGH, Decimal("600.01"))
    assert finding.text == "3 times the average of the 3 months before up to the same day"


def test_three_times_the_average_is_usual(company: Company) -> None:
    three_months(company)
    company.uses("2026-11-20", "600")

    assert company.found() == []


def test_under_a_third_is_unusual_only_once_the_month_is_over(company: Company) -> None:
    three_months(company)
    company.uses("2026-11-20", "50")
    assert company.found() == []

    company.at("2026-12-01")

    assert company.found() == [Kind.LOW]
    assert "25% of the average" in company.examined().findings[0].text


def test_a_running_month_is_compared_up_to_the_same_day(company: Company) -> None:
    three_months(company, "10", day="02")
    three_months(company, "1000", day="28")
    company.uses("2026-11-02", "110")

    (finding,) = company.examined().findings

    assert finding.kind is Kind.HIGH
    assert company.examined().comparison.average == 10


def test_late_usage_counts_from_the_first_day_of_its_bills_month(company: Company) -> None:
    company.uses("2026-08-02", "10")
    late = company.at("2026-08-28")
    company.at("2026-10-05")
    report(occurred_at=late, units=Decimal(30), price_per_unit=Decimal(1))
    company.uses("2026-11-02", "1")

    assert company.examined().comparison.previous == 30


def test_day_2_of_a_month_is_no_alarm(company: Company) -> None:
    three_months(company, "300", day="02")
    three_months(company, "300", day="25")
    company.uses("2026-11-02", "330")

    assert company.found() == []


def test_a_first_month_is_not_unusual(company: Company) -> None:
    company.uses("2026-11-20", "1000000")

    assert company.found() == []
    assert company.examined().comparison.average is None


def test_two_cents_and_ten_cents_are_below_the_floor(company: Company) -> None:
    three_months(company, "0.02")
    company.uses("2026-11-20", "0.10")

    assert company.found() == []


def test_the_floor_is_a_setting(company: Company, settings: LazySettings) -> None:
    settings.ATTENTION_FLOOR = 0
    three_months(company, "0.02")
    company.uses("2026-11-20", "0.10")

    assert company.found() == [Kind.HIGH]


def test_the_rest_of_a_month_after_an_early_close_is_compared_as_a_whole_month(
    company: Company,
) -> None:
    three_months(company, "300")
    close(company.uses("2026-11-12", "280"), by="Sam")
    company.uses("2026-11-20", "20")
    company.at("2026-12-01")

    assert company.found() == []
    assert company.examined().comparison.total == 300


def test_a_month_of_voids_makes_no_average_to_compare_with(company: Company) -> None:
    bill = company.uses("2026-09-10", "500")
    company.at("2026-10-05")
    close(bill, by="Sam")
    void(bill.records.get(), reason="Wrong.", by="Sam")
    company.uses("2026-11-20", "900")

    assert company.examined().comparison.average == 0
    assert company.found() == []


# Days


def every_day(company: Company, month: str, days: range, units: str = "30") -> None:
    for day in days:
        company.uses(f"{month}-{day:02}", units)


def test_a_day_far_over_the_usual_is_found(company: Company) -> None:
    every_day(company, "2026-11", range(1, 8))
    company.uses("2026-11-08", "30000000")

    (finding,) = company.examined().findings

    assert (finding.kind, finding.since) == (Kind.DAY, dt.date(2026, 11, 8))
    assert finding.text == "1,000,000 times the units of a usual day"


def test_the_habit_of_the_months_before_counts(company: Company) -> None:
    every_day(company, "2026-10", range(20, 26))
    company.uses("2026-11-01", "400")

    assert Kind.DAY in company.found()


def test_ten_times_the_usual_is_not_an_alarm(company: Company) -> None:
    every_day(company, "2026-11", range(1, 8))
    company.uses("2026-11-08", "300")

    assert company.found() == []


def test_a_mondays_only_reporter_raises_no_alarm(company: Company) -> None:
    for day in ("2026-10-05", "2026-10-12", "2026-10-19", "2026-10-26", "2026-11-02", "2026-11-09"):
        company.uses(day, "500")

    assert company.found() == []


def test_few_days_are_no_habit(company: Company) -> None:
    every_day(company, "2026-11", range(1, 5))
    company.uses("2026-11-08", "30000")

    assert company.found() == []


def test_the_bill_of_a_month_may_be_opened_after_that_of_the_next_one(company: Company) -> None:
    newer = company.uses("2026-11-02", "1", service="Compute")
    older = report(service="Storage", occurred_at=company.now - dt.timedelta(days=5))

    examined = examine([newer, older], company.now)

    assert (newer.pk < older.pk, newer.month > older.month) == (True, True)
    assert [len(examined[bill.pk].findings) for bill in (newer, older)] == [0, 0]


def test_an_unusual_day_of_little_money_is_not_an_alarm(company: Company) -> None:
    every_day(company, "2026-11", range(1, 8), units="0.01")
    company.uses("2026-11-08", "99")

    assert company.found() == []


# Prices of 0


def test_a_price_of_0_where_it_was_not_0_is_found(company: Company) -> None:
    company.uses("2026-10-10", "50")
    company.uses("2026-11-10", "70", price_per_unit=Decimal(0))

    (finding,) = company.examined().findings

    assert (finding.kind, finding.text) == (Kind.FREE, "70 units at a price of 0")


@pytest.mark.parametrize("free_day", ["2026-10-09", "2026-10-10"])
def test_a_service_that_always_had_a_free_part_raises_no_alarm(
    company: Company, free_day: str
) -> None:
    for day in (free_day, "2026-11-10"):
        company.uses(day, "70", price_per_unit=Decimal(0))
    company.uses("2026-10-10", "50")
    company.uses("2026-11-11", "50")

    assert company.found(Kind.LATE) == []


# Late usage and due bills


def test_late_usage_and_due_bills_are_told_and_do_not_block(company: Company) -> None:
    three_months(company, "50")
    bill = company.uses("2026-11-20", "50")
    report(occurred_at=dt.datetime(2026, 9, 30, tzinfo=dt.UTC), customer_id=bill.customer_id)
    now = company.at("2026-12-10")

    examined = examine([bill], now)[bill.pk]

    kinds = [(finding.kind, finding.since) for finding in examined.findings]
    assert kinds == [(Kind.LATE, dt.date(2026, 9, 30)), (Kind.DUE, dt.date(2026, 12, 4))]
    assert examined.blocking == []


# Possible duplicates


def duplicates(bill: Bill) -> list[tuple[str, int, Decimal, list[list[str]]]]:
    find_duplicates(bill)
    rows = bill.possible_duplicates.order_by("service", "price_per_unit")
    return [(row.service, row.records, row.amount, row.pairs) for row in rows]


def test_equal_facts_under_other_ids_are_possible_duplicates(company: Company) -> None:
    for request_id in ("cdn:210", "cdn:210-again"):
        bill = company.uses("2026-11-20", "50", request_id=request_id)

    assert duplicates(bill) == [
        ("Database Hosting", 1, Decimal(50), [["cdn:210-again", "cdn:210"]])
    ]
    assert company.found() == [Kind.DUPLICATES]
    assert twins_of(UsageRecord.objects.get(pk="cdn:210")) == ["cdn:210-again"]


@pytest.mark.parametrize(
    "change",
    [
        {"service": "Other"},
        {"units": Decimal(51)},
        {"price_per_unit": Decimal("1.000000000001")},
    ],
)
def test_facts_that_differ_are_no_duplicates(company: Company, change: dict[str, Any]) -> None:
    company.uses("2026-11-20", "50")
    bill = company.uses("2026-11-20", "50", **change)

    assert duplicates(bill) == []


def test_equal_facts_at_other_times_are_no_duplicates(company: Company) -> None:
    company.uses("2026-11-19", "50")

    assert duplicates(company.uses("2026-11-20", "50")) == []


def test_a_voided_duplicate_is_gone(company: Company) -> None:
    for request_id in ("cdn:210", "cdn:210-again"):
        bill = company.uses("2026-11-20", "50", request_id=request_id)
    find_duplicates(bill)
    void(UsageRecord.objects.get(pk="cdn:210-again"), reason="Twice.", by="Sam")

    assert duplicates(bill) == []


def test_1000_honest_equal_facts_are_one_entry_and_accepted_once(company: Company) -> None:
    now = company.at("2026-11-20")
    bill = report(1000, occurred_at=now)

    ((_, records, amount, pairs),) = duplicates(bill)
    assert (records, amount, len(pairs)) == (999, Decimal("2897.10"), 5)
    assert company.found() == [Kind.DUPLICATES]
    AcceptedDuplicates.objects.create(
        customer_id=bill.customer_id, service="Database Hosting", reason="Right.", by="Sam", at=now
    )
    assert company.found() == []
    report(1000, occurred_at=company.at("2026-11-21"))
    find_duplicates(bill)
    assert company.found() == []
    AcceptedDuplicates.objects.update(lifted_at=now, lifted_by="Sam")
    assert company.found() == [Kind.DUPLICATES]


def test_records_beyond_one_page_of_keys_are_compared(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage.attention.duplicates._RECORDS_AT_ONCE", 3)
    occurred_at = company.at("2026-11-20")
    for number in range(10):
        bill = report(occurred_at=occurred_at, units=Decimal(number % 9 + 1))

    assert find_duplicates(bill) == 10
    assert bill.possible_duplicates.get().records == 1


# API keys


def reported_on(days: list[int], today: dt.date) -> ApiKey:
    api_key, _ = ApiKey.objects.issue(name="cdn")
    for back in days:
        day = today - dt.timedelta(days=back)
        Traffic.objects.create(api_key=api_key, day=day, created=1)
    return api_key


WEEKDAYS = [
    back for back in range(60) if (dt.date(2026, 11, 23) - dt.timedelta(back)).weekday() < 5
]


@pytest.mark.parametrize(
    ("days", "is_silent"),
    [
        (list(range(3, 33)), True),  # daily, and then three days of silence
        (list(range(2, 32)), False),
        ([7, 14, 21, 28, 35], False),  # Mondays
        ([15, 22, 29, 36, 43], True),
        ([14, 21, 28, 35, 42], False),
        ([40, 60, 61, 80], False),  # no habit
        ([30, 31], False),
        ([back for back in WEEKDAYS if back > 2], False),
        ([back for back in WEEKDAYS if back > 6], True),
    ],
)
def test_a_regular_key_that_fell_silent_is_found(
    db: None, days: list[int], is_silent: bool
) -> None:
    today = dt.date(2026, 11, 23)
    api_key = reported_on(days, today)

    assert [key for key, _ in silent_keys(today)] == [api_key] * is_silent


def test_a_revoked_key_may_be_silent(db: None) -> None:
    today = dt.date(2026, 11, 23)
    reported_on(list(range(5, 40)), today).revoke()

    assert silent_keys(today) == []


# Cost


def test_a_page_of_bills_is_examined_in_eight_queries(company: Company) -> None:
    for _ in range(5):
        customer = CustomerFactory.create()
        for month in MONTHS:
            company.uses(f"{month}-10", "500", customer_id=customer.pk)
        company.uses("2026-11-20", "70", customer_id=customer.pk, price_per_unit=Decimal(0))
        company.uses("2026-11-20", "700", customer_id=customer.pk)
    bills = list(Bill.objects.open())

    with queries() as statements:
        examine(bills, company.now)

    assert len(statements) <= 8
    assert not [sql for sql in statements if "usage_usagerecord" in sql]
