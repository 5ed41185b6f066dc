"""Closing fixes a bill's total once and for ever."""

import datetime as dt
from collections.abc import Callable
from decimal import Context, Decimal
from typing import Any

import pytest
from django.db import connection

from usage.database import transactions
from usage.ledger.close import BillNotBegun, CloseRefused, close
from usage.ledger.record import record
from usage.ledger.statements import STATEMENTS
from usage.ledger.void import void
from usage.models import Bill, Customer, DailyUsage, Line
from usage.money import round_amount
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory, FactFactory

pytestmark = pytest.mark.django_db
NOW = "2026-11-10T12:00:00.123Z"


@pytest.fixture
def now(database_clock: DatabaseClock) -> dt.datetime:
    return database_clock.set(NOW)


def bill_with(*usage: tuple[str, str], currency: str = "USD", service: str | None = None) -> Bill:
    """Return the bill of a new customer who used these units at these prices."""
    customer = CustomerFactory.create(currency=currency)
    facts = [
        FactFactory.build(
            customer_id=customer.pk,
            service=service or f"Service {number}",
            units=Decimal(units),
            price_per_unit=Decimal(price),
        )
        for number, (units, price) in enumerate(usage)
    ]
    record(facts, reported_by_id=None)
    bill: Bill = Bill.objects.get(customer=customer)
    return bill


def test_closing_fixes_the_total_and_ends_the_period_now(now: dt.datetime) -> None:
    bill = bill_with(("58", "0.05"), ("42", "0.15"))

    assert close(bill, by="Sam")

    stored = Bill.objects.get()
    assert stored.is_closed
    assert (stored.closed_at, stored.period_end) == (now, now)
    assert stored.closed_total == stored.total == bill.total == Decimal("9.20")


def test_the_clock_is_cut_to_the_millisecond(database_clock: DatabaseClock) -> None:
    database_clock.set("2026-11-10T12:00:00.123999Z")
    bill = bill_with(("1", "1"))
    close(bill, by="Sam")

    recorded_at = bill.records.get().recorded_at
    assert recorded_at == bill.closed_at == dt.datetime.fromisoformat("2026-11-10T12:00:00.123Z")


def test_a_period_that_has_ended_keeps_its_end(
    now: dt.datetime, database_clock: DatabaseClock
) -> None:
    bill = bill_with(("1", "1"))
    later = database_clock.set("2026-12-10T00:00:00Z")

    assert close(bill, by="Sam")

    assert bill.closed_at == later
    assert bill.period_end == dt.datetime(2026, 12, 1, tzinfo=dt.UTC)


def test_closing_twice_changes_nothing(now: dt.datetime, database_clock: DatabaseClock) -> None:
    bill = bill_with(("1", "1"))
    stale = Bill.objects.get()
    assert close(bill, by="Sam")
    before = Bill.objects.values().get()
    database_clock.set("2026-11-20T00:00:00Z")

    assert close(bill, by="Sam") is False
    assert close(stale, by="Sam") is False  # it was read while the bill was open
    assert stale.is_closed
    assert Bill.objects.values().get() == before


def test_a_bill_that_has_not_begun_stays_open(database_clock: DatabaseClock) -> None:
    database_clock.set("2026-10-31T23:58:00Z")
    customer = CustomerFactory.create()
    start = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
    record([FactFactory.build(customer_id=customer.pk, occurred_at=start)], reported_by_id=None)

    for now in ("2026-10-31T23:59:59.999Z", "2026-11-01T00:00:00Z"):
        database_clock.set(now)
        with pytest.raises(BillNotBegun, match="begins at 2026-11-01 00:00:00 UTC: close it after"):
            close(Bill.objects.get(), by="Sam")
    assert not Bill.objects.get().is_closed


def test_closing_takes_the_close_lock_before_it_looks_at_the_clock(
    now: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    bill = bill_with(("1", "1"))
    steps: list[str] = []

    def lock(sql: Any, customer_ids: list[int], *, exclusive: bool) -> None:
        steps.append(f"lock of {customer_ids}, exclusive: {exclusive}")
        take(sql, customer_ids, exclusive=exclusive)

    def statement(execute: Callable[..., Any], sql: str, *others: Any) -> Any:
        if transactions.NOW[connection.vendor] in sql:
            steps.append("clock")
        return execute(sql, *others)

    engine = STATEMENTS[connection.vendor]
    take = engine.take_close_lock
    monkeypatch.setattr(engine, "take_close_lock", lock)

    with connection.execute_wrapper(statement):
        assert close(bill, by="Sam")
    assert steps == [f"lock of [{bill.customer_id}], exclusive: True", "clock"]


# Totals


@pytest.mark.parametrize(
    ("currency", "price", "rounded"),
    [
        ("JPY", "0.5", "1"),
        ("JPY", "0.499999999999", "0"),
        ("JPY", "2.5", "3"),
        ("USD", "0.005", "0.01"),
        ("USD", "0.004999999999", "0.00"),
        ("USD", "1.125", "1.13"),
        ("KWD", "0.0005", "0.001"),
        ("KWD", "0.0025", "0.003"),
        ("CLF", "0.00005", "0.0001"),
        ("UYW", "1.00015", "1.0002"),
    ],
)
def test_a_line_is_rounded_half_away_from_zero_to_the_currencys_minor_unit(
    currency: str, price: str, rounded: str, now: dt.datetime
) -> None:
    bill = bill_with(("1", price), currency=currency)

    (line,) = bill.lines()
    assert str(line.amount) == str(bill.total) == rounded
    assert line.exact_amount == Decimal(price)
    close(bill, by="Sam")
    assert str(bill.total) == rounded


@pytest.mark.parametrize(
    ("amount", "digits", "rounded"),
    [("-0.5", 0, "-1"), ("-0.005", 2, "-0.01"), ("-1.0005", 3, "-1.001"), ("-0.4", 0, "-0")],
)
def test_negative_amounts_are_rounded_away_from_zero_too(
    amount: str, digits: int, rounded: str
) -> None:
    assert str(round_amount(Decimal(amount), digits)) == rounded


@pytest.mark.parametrize(
    ("currency", "total"), [("JPY", "-3"), ("USD", "-2.51"), ("KWD", "-2.505"), ("CLF", "-2.5050")]
)
def test_a_negative_bill_closes(
    currency: str, total: str, now: dt.datetime, database_clock: DatabaseClock
) -> None:
    bill = bill_with(("1", "2.505"), currency=currency)
    voided = bill.records.get()
    close(bill, by="Sam")
    database_clock.set("2026-11-11T00:00:00Z")
    negative = void(voided, reason="sent twice", by="carol").bill

    assert close(negative, by="Sam")
    assert str(negative.total) == total
    assert negative.closed_total == Decimal(total)


def test_the_total_is_the_sum_of_the_rounded_lines(now: dt.datetime) -> None:
    bill = bill_with(*[("1", "0.005")] * 3)

    assert bill.total == Decimal("0.03")  # 0.015 would have made 0.02
    assert sum(line.exact_amount for line in bill.lines()) == Decimal("0.015")


def test_a_line_is_rounded_once_however_many_records_it_has(now: dt.datetime) -> None:
    bill = bill_with(*[("1", "0.005")] * 3, service="CDN Storage")

    (line,) = bill.lines()
    assert (line.units, line.records, line.amount) == (Decimal(3), 3, Decimal("0.02"))


def test_one_service_at_two_prices_makes_two_lines(now: dt.datetime) -> None:
    bill = bill_with(("1", "2"), ("1", "3"), ("5", "2"), service="CDN Storage")

    lines = [(line.service, line.price_per_unit, line.units) for line in bill.lines()]
    assert lines == [
        ("CDN Storage", Decimal(2), Decimal(6)),
        ("CDN Storage", Decimal(3), Decimal(1)),
    ]


def test_the_lines_of_many_bills_are_read_at_once(now: dt.datetime) -> None:
    bills = [bill_with(("1", "2")), bill_with(("3", "1"), currency="JPY")]

    lines = DailyUsage.objects.lines_of(Bill.objects.all())

    assert {pk: [line.amount for line in of] for pk, of in lines.items()} == {
        bills[0].pk: [Decimal("2.00")],
        bills[1].pk: [Decimal(3)],
    }


def test_a_total_is_exact_however_many_digits_it_has() -> None:
    amounts = [Decimal(10) ** 29, Decimal("0.01")]
    lines = [Line("x", Decimal(1), amount, 1, amount) for amount in amounts]

    assert str(Bill(currency="USD").total_of(lines)) == "1" + "0" * 29 + ".01"


def test_the_amount_of_a_line_is_exact_however_many_digits_it_has() -> None:
    units, price = 10**30 - 1, 10**18 - 1
    line = Line("x", Decimal(price).scaleb(-12), Decimal(f"{units}e-6"), 1, Decimal(0))

    assert int(line.exact_amount.scaleb(18, Context(prec=80))) == units * price


HUGE = [("999999999999.999999", "0.999999999999")] * 1000


def test_a_total_at_the_end_of_the_scale_is_exact_or_refused(now: dt.datetime) -> None:
    bill = bill_with(*HUGE)
    total = sum(line.amount for line in bill.lines())

    if connection.vendor == "sqlite":
        with pytest.raises(CloseRefused, match="exceeds what this database can hold exactly"):
            close(bill, by="Sam")
        assert not Bill.objects.get().is_closed
        assert Bill.objects.get().total == total
    else:
        assert close(bill, by="Sam")
        assert bill.total == total == Decimal("999999999999000.00")


def test_a_bill_without_usage_of_its_own_any_more_closes_at_zero(
    customer: Customer, now: dt.datetime
) -> None:
    record([FactFactory.build()], reported_by_id=None)
    bill = Bill.objects.get()
    void(bill.records.get(), reason="sent twice", by="carol")

    assert close(bill, by="Sam")
    assert str(bill.total) == "0.00"
