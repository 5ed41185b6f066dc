"""Calendar months and days in the billing time zone."""

from __future__ import annotations

import datetime as dt
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from django.conf import settings
from django.utils import timezone

CLOCK_SKEW = dt.timedelta(minutes=5)
LONGEST_LATENESS = dt.timedelta(days=366)


class Period(NamedTuple):
    """A half-open stretch of time: `start` belongs to it, `end` does not; both aware."""

    start: dt.datetime
    end: dt.datetime


def is_same_zone(one: str, other: str) -> bool:
    """Tell whether two keys of the IANA database name one time zone, such as UTC and Etc/UTC."""
    return _zone_of(one) == _zone_of(other)


def _zone_of(key: str) -> str:
    while key in _aliases():
        key = _aliases()[key]
    return key


@cache
def _aliases() -> dict[str, str]:
    """Return what each alias is an alias of: the lines "L zone alias" of the database's source."""
    source = (files("tzdata") / "zoneinfo" / "tzdata.zi").read_text()
    links = (line.split() for line in source.splitlines() if line.startswith("L "))
    return {alias: zone for _, zone, alias in links}


def day_of(instant: dt.datetime) -> dt.date:
    """Return the calendar day of an aware instant in the billing time zone."""
    return instant.astimezone(timezone.get_default_timezone()).date()


def month_of(instant: dt.datetime) -> dt.date:
    """Return the first day of an aware instant's month in the billing time zone."""
    return day_of(instant).replace(day=1)


def next_month(month: dt.date) -> dt.date:
    """Return the first day of the month after the one that begins on `month`."""
    return (month + dt.timedelta(days=31)).replace(day=1)


def previous_month(month: dt.date) -> dt.date:
    """Return the first day of the month before the one that begins on `month`."""
    return (month - dt.timedelta(days=1)).replace(day=1)


def months_up_to(month: dt.date, count: int) -> list[dt.date]:
    """Return the first days of this month and of those before it, `count` in all, latest first."""
    last = month.year * 12 + month.month - 1
    return [dt.date(number // 12, number % 12 + 1, 1) for number in range(last, last - count, -1)]


def month_bounds(month: dt.date) -> Period:
    """Return the instants, in UTC, at which the month begins and ends in the billing time zone."""
    return Period(midnight(month), midnight(next_month(month)))


def day_bounds(day: dt.date) -> Period:
    """Return the instants, in UTC, at which the day begins and ends in the billing time zone."""
    return Period(midnight(day), midnight(day + dt.timedelta(days=1)))


def grace_end(month: dt.date) -> dt.datetime:
    """Return the instant, in UTC, up to which usage of an ended month still goes on its own bill.

    The grace is counted in calendar days of the billing time zone.
    """
    return midnight(next_month(month) + dt.timedelta(days=settings.BILLING_GRACE_DAYS))


def last_due_month(now: dt.datetime) -> dt.date:
    """Return the latest month that is over at the instant `now`, its grace too."""
    month = previous_month(month_of(now))
    while grace_end(month) >= now:
        month = previous_month(month)
    return month


def is_open_to_usage(month: dt.date, now: dt.datetime) -> bool:
    """Tell whether usage of `month` goes on a bill of that month at the instant `now`."""
    return month_bounds(month).start - CLOCK_SKEW <= now <= grace_end(month)


def midnight(day: dt.date) -> dt.datetime:
    """Return the first instant, in UTC, of a day in the billing time zone."""
    local = dt.datetime.combine(day, dt.time(), timezone.get_default_timezone())
    return local.astimezone(dt.UTC)
