"""Calendar months and days in the billing time zone."""

import datetime as dt

import pytest
from pytest_django import Settings

from usage import periods
from usage.models import Bill
from usage.periods import (
    day_of,
    grace_end,
    is_open_to_usage,
    last_due_month,
    month_bounds,
    month_of,
)

MILLISECOND = dt.timedelta(milliseconds=1)


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(f"{text}Z")


@pytest.fixture
def zone(request: pytest.FixtureRequest, settings: Settings) -> None:
    settings.BILLING_TIME_ZONE = settings.TIME_ZONE = request.param


def test_a_month_is_half_open() -> None:
    start, end = month_bounds(dt.date(2028, 2, 1))
    assert (start, end) == (utc("2028-02-01T00:00"), utc("2028-03-01T00:00"))
    assert month_of(start) == month_of(end - MILLISECOND) == dt.date(2028, 2, 1)
    assert month_of(end) == dt.date(2028, 3, 1)


@pytest.mark.parametrize(
    ("zone", "start", "end"),
    [
        ("Pacific/Kiritimati", "2026-10-31T10:00", "2026-11-30T10:00"),
        ("Etc/GMT+12", "2026-11-01T12:00", "2026-12-01T12:00"),
        ("America/New_York", "2026-11-01T04:00", "2026-12-01T05:00"),
        ("Asia/Kathmandu", "2026-10-31T18:15", "2026-11-30T18:15"),
        ("Australia/Lord_Howe", "2026-10-31T13:00", "2026-11-30T13:00"),
    ],
    indirect=["zone"],
)
def test_a_month_begins_at_its_own_midnight(zone: None, start: str, end: str) -> None:
    assert month_bounds(dt.date(2026, 11, 1)) == (utc(start), utc(end))
    assert day_of(utc(start)) == dt.date(2026, 11, 1)
    assert day_of(utc(start) - MILLISECOND) == dt.date(2026, 10, 31)


@pytest.mark.parametrize(
    ("zone", "month", "start"),
    [
        # Clocks went from midnight to one o'clock, and from one o'clock back to midnight.
        ("Africa/Cairo", dt.date(2014, 8, 1), "2014-07-31T22:00"),
        ("America/Havana", dt.date(2020, 11, 1), "2020-11-01T04:00"),
        ("America/Asuncion", dt.date(2017, 10, 1), "2017-10-01T04:00"),
    ],
    indirect=["zone"],
)
def test_a_midnight_that_is_missing_or_comes_twice_is_the_first_instant_of_the_day(
    zone: None, month: dt.date, start: str
) -> None:
    assert month_bounds(month).start == utc(start)
    assert day_of(utc(start)) == month
    assert day_of(utc(start) - MILLISECOND) < month


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Africa/Cairo"], indirect=True)
def test_months_follow_each_other_without_a_gap(zone: None) -> None:
    month = dt.date(2010, 1, 1)
    while month < dt.date(2040, 1, 1):
        following = periods.next_month(month)
        assert following > month
        assert following.day == 1
        assert periods.previous_month(following) == month
        assert month_bounds(month).end == month_bounds(following).start
        month = following


def test_grace_is_counted_in_days_after_the_months_end(settings: Settings) -> None:
    for days, end in ((0, "2026-11-01T00:00"), (3, "2026-11-04T00:00"), (40, "2026-12-11T00:00")):
        settings.BILLING_GRACE_DAYS = days
        assert grace_end(dt.date(2026, 10, 1)) == utc(end)


@pytest.mark.parametrize(
    ("now", "is_open"),
    [
        ("2026-09-30T23:54:59.999", False),
        ("2026-09-30T23:55", True),
        ("2026-10-15T12:00", True),
        ("2026-11-04T00:00", True),
        ("2026-11-04T00:00:00.001", False),
    ],
)
def test_a_month_is_open_from_the_skew_before_it_to_the_end_of_grace(
    now: str, is_open: bool
) -> None:
    assert is_open_to_usage(dt.date(2026, 10, 1), utc(now)) is is_open


def test_a_month_is_due_once_it_takes_no_more_usage() -> None:
    end_of_grace = grace_end(dt.date(2026, 10, 1))

    assert last_due_month(end_of_grace) == dt.date(2026, 9, 1)
    assert last_due_month(end_of_grace + MILLISECOND) == dt.date(2026, 10, 1)
    bill = Bill(month=dt.date(2026, 10, 1))
    assert not bill.is_due(end_of_grace)
    assert bill.is_due(end_of_grace + MILLISECOND)
