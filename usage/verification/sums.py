"""The sums of bills' records beside those of daily usage: sorted, one day at a time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import lru_cache
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import BigIntegerField, Count, Func, Max, Min, QuerySet, Sum, Value
from django.db.models.functions import Collate

from usage.database.sums import ExactSum
from usage.models import DailyUsage, UsageRecord
from usage.money import EXACT
from usage.periods import day_of, midnight

_QUARTER_HOUR_SECONDS = 900
_QUARTERS_CACHED = 10_000  # a hundred days
# The order in which Python compares text, whatever the database's own is.
_COLLATION = {"postgresql": "C", "sqlite": "BINARY"}


class DaySum(NamedTuple):
    """The units of one day, and the number of records."""

    units: Decimal
    records: int


class Day(NamedTuple):
    """A bill's units of one service and price on one day: of the records, and of daily usage."""

    bill_id: int
    service: str
    price: Decimal
    day: dt.date
    recorded: DaySum
    daily_usage: DaySum

    @property
    def units(self) -> Decimal:
        """How many units daily usage has too many."""
        return EXACT.subtract(self.daily_usage.units, self.recorded.units)


_Key = tuple[int, str, Decimal, dt.date]
_NOTHING = DaySum(Decimal(0), 0)


class _QuarterHour(Func):
    """The number of an instant's quarter of an hour since 1970, in UTC, on SQLite.

    Days begin at a quarter of an hour in every time zone.
    """

    template = f"(CAST(strftime('%%%%s', %(expressions)s) AS INTEGER) / {_QUARTER_HOUR_SECONDS})"
    output_field = BigIntegerField()


def _grouping(records: QuerySet[UsageRecord, UsageRecord]) -> tuple[Func, Callable[[int], dt.date]]:
    """Return a number to group records by, in order of time, and what tells its day.

    Python alone decides when days begin, as on the write path: the database's time zones may be
    of another version.
    """
    if connections[DEFAULT_DB_ALIAS].vendor == "sqlite":

        @lru_cache(maxsize=_QUARTERS_CACHED)
        def day_of_quarter(quarter: int) -> dt.date:
            return day_of(dt.datetime.fromtimestamp(quarter * _QUARTER_HOUR_SECONDS, dt.UTC))

        return _QuarterHour("occurred_at"), day_of_quarter
    bounds = records.aggregate(first=Min("occurred_at"), last=Max("occurred_at"))
    first, last = (day_of(bound or dt.datetime.now(dt.UTC)) for bound in bounds.values())
    days = [first + dt.timedelta(days=number) for number in range((last - first).days + 1)]
    midnights = Value([midnight(day) for day in days])
    bucket = Func("occurred_at", midnights, function="width_bucket", output_field=BigIntegerField())
    return bucket, lambda number: days[number - 1]


def recorded(records: QuerySet[UsageRecord, UsageRecord]) -> Iterator[tuple[_Key, DaySum]]:
    """Yield the sums of the records, sorted by key."""
    number, day = _grouping(records)
    keys = ("bill_id", "name", "price_per_unit", "number")
    rows = (
        records.annotate(name=_sortable("service"), number=number)
        .values_list(*keys)
        .annotate(ExactSum("units"), Count("pk"))
        .order_by(*keys)
        .iterator()
    )
    by_day = groupby(rows, key=lambda row: (*row[:3], day(row[3])))
    for key, parts in by_day:
        units, count = _NOTHING
        for *_, more_units, more in parts:
            units, count = EXACT.add(units, more_units), count + more
        yield key, DaySum(units, count)


def summed(daily_usage: QuerySet[DailyUsage, DailyUsage]) -> Iterator[tuple[_Key, DaySum]]:
    """Yield the sums of daily usage over its slots, sorted by key."""
    keys = ("bill_id", "name", "price_per_unit", "day")
    rows = (
        daily_usage.annotate(name=_sortable("service"))
        .values_list(*keys)
        .annotate(ExactSum("units"), Sum("records"))
        .order_by(*keys)
        .iterator()
    )
    return ((row[:4], DaySum(*row[4:])) for row in rows)


def _sortable(name: str) -> Collate:
    return Collate(name, _COLLATION[connections[DEFAULT_DB_ALIAS].vendor])


def side_by_side(
    recorded: Iterator[tuple[_Key, DaySum]], summed: Iterator[tuple[_Key, DaySum]]
) -> Iterator[Day]:
    """Yield each day that either knows, sorted by key."""
    sources = (
        ((key, 0, found) for key, found in recorded),
        ((key, 1, found) for key, found in summed),
    )
    for key, found in groupby(merge(*sources, key=itemgetter(0)), key=itemgetter(0)):
        sums = [_NOTHING, _NOTHING]
        for _, source, found_sum in found:
            sums[source] = found_sum
        yield Day(*key, *sums)
