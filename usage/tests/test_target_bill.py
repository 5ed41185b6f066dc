"""Which bill a fact belongs on, decided without a database."""

from __future__ import annotations

import datetime as dt

import pytest
from pytest_django.fixtures import Settings

from usage.ledger.facts import Refused
from usage.ledger.target_bill import (
    IN_THE_FUTURE,
    TOO_LONG_AGO,
    UNKNOWN_CUSTOMER,
    ExistingBill,
    MissingBill,
    current_bill,
    target_bill,
    target_of_void,
)
from usage.tests.factories import FactFactory

NOVEMBER, DECEMBER = dt.date(2026, 11, 1), dt.date(2026, 12, 1)
NOW = dt.datetime(2026, 11, 22, 10, tzinfo=dt.UTC)
MILLISECOND = dt.timedelta(milliseconds=1)


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(f"{text}+00:00")


def bill(start: str, end: str, *, id_: int = 1, is_open: bool = True) -> ExistingBill:
    month = at(start).date().replace(day=1)
    return ExistingBill(id_, month, at(start), at(end), is_open)


RUNNING = bill("2026-11-01T00:00", "2026-12-01T00:00")
OCTOBER = bill("2026-10-01T00:00", "2026-11-01T00:00", id_=2)


def target(
    *bills: ExistingBill, occurred_at: dt.datetime | None = None, now: dt.datetime = NOW
) -> ExistingBill | MissingBill | Refused:
    fact = FactFactory.build(customer_id=7, occurred_at=occurred_at)
    return target_bill(fact, bills, now)


def test_usage_goes_on_the_open_bill_of_the_running_month() -> None:
    assert target(RUNNING) is RUNNING
    assert target(RUNNING, occurred_at=at("2026-11-01T00:00")) is RUNNING


def test_the_first_usage_of_a_month_opens_its_bill() -> None:
    assert target() == MissingBill(7, NOVEMBER, at("2026-11-01T00:00"), at("2026-12-01T00:00"))


def test_within_the_grace_usage_goes_on_the_bill_of_its_own_month() -> None:
    now = at("2026-11-04T00:00")

    assert target(RUNNING, OCTOBER, occurred_at=at("2026-10-31T23:59"), now=now) is OCTOBER


def test_after_the_grace_usage_goes_on_the_current_bill() -> None:
    now = at("2026-11-04T00:00") + MILLISECOND

    assert target(RUNNING, OCTOBER, occurred_at=at("2026-10-31T23:59"), now=now) is RUNNING


def test_after_an_early_close_usage_of_the_month_goes_on_a_bill_for_the_rest() -> None:
    early = bill("2026-11-01T00:00", "2026-11-20T12:00", is_open=False)

    rest = MissingBill(7, NOVEMBER, at("2026-11-20T12:00"), at("2026-12-01T00:00"))
    assert target(early, occurred_at=at("2026-11-10T00:00")) == rest


def test_usage_of_the_next_month_within_the_clock_skew_opens_its_bill() -> None:
    now = at("2026-11-30T23:56")

    opened = target(RUNNING, occurred_at=at("2026-12-01T00:00"), now=now)

    assert isinstance(opened, MissingBill)
    assert opened.month == DECEMBER


@pytest.mark.parametrize(
    ("occurred_at", "refusal"),
    [
        (NOW + dt.timedelta(minutes=5, milliseconds=1), IN_THE_FUTURE),
        (NOW - dt.timedelta(days=366, milliseconds=1), TOO_LONG_AGO),
    ],
)
def test_usage_outside_the_bounds_of_time_is_refused(
    occurred_at: dt.datetime, refusal: object
) -> None:
    assert target(RUNNING, occurred_at=occurred_at) == refusal


@pytest.mark.parametrize("distance", [dt.timedelta(minutes=5), -dt.timedelta(days=366)])
def test_the_bounds_of_time_belong_to_what_is_accepted(distance: dt.timedelta) -> None:
    assert target(RUNNING, occurred_at=NOW + distance) is RUNNING


def test_usage_of_an_unknown_customer_is_refused() -> None:
    assert target_bill(FactFactory.build(), None, NOW) == UNKNOWN_CUSTOMER


def test_the_current_bill_is_the_next_months_when_the_clock_was_set_back() -> None:
    closed = bill("2026-11-01T00:00", "2026-12-01T00:00", is_open=False)

    opened = current_bill(7, [closed], NOW)

    assert opened == MissingBill(7, DECEMBER, at("2026-12-01T00:00"), at("2027-01-01T00:00"))


def test_a_void_goes_on_its_records_own_bill_while_that_is_open() -> None:
    void = FactFactory.build(customer_id=7)
    assert target_of_void(OCTOBER.id, void, [RUNNING, OCTOBER], NOW) is OCTOBER
    closed = OCTOBER._replace(is_open=False)
    assert target_of_void(OCTOBER.id, void, [RUNNING, closed], NOW) is RUNNING


def test_months_are_those_of_the_billing_time_zone(settings: Settings) -> None:
    settings.TIME_ZONE = settings.BILLING_TIME_ZONE = "Pacific/Kiritimati"  # UTC+14

    opened = target(now=at("2026-11-30T10:00"))

    assert opened == MissingBill(7, DECEMBER, at("2026-11-30T10:00"), at("2026-12-31T10:00"))
