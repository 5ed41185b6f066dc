"""The sums of this month's and last month's bills by currency, day, service and bill.

They are read from daily usage, so the work grows with customers, services and days, and not with
records. Sums that took long are kept for a while, with the time they were made.
"""

from __future__ import annotations

import datetime as dt
import heapq
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from django.core.cache import cache
from django.db import Error
from django.db.models import F, Max, Min, OuterRef, Q, Subquery

from usage.currencies import digits_of
from usage.database.constraints import READABLE_DAYS
from usage.database.postgresql import waiting
from usage.database.sums import AmountSum, ExactSum
from usage.database.transactions import is_unavailable
from usage.models import Customer, DailyUsage
from usage.money import EXACT, exact_amount, round_amount
from usage.periods import month_of, previous_month
from usage.validators import HIGHEST_PRICE

SHOWN = 10
# Figures that take less are added up anew for every page. Others are kept a hundred times as long
# as they took, so that adding up is at most a hundredth of a process's time.
WORTH_KEEPING_SECONDS = 0.1
KEPT_TIMES, MOST_KEPT_SECONDS = 100, 600
RETRIED_AFTER_SECONDS = 60
_one_at_a_time = threading.Lock()


class Amount(NamedTuple):
    """The exact amount of one service on one day, on all bills of a month in one currency."""

    currency: str
    month: dt.date
    day: dt.date
    service: str
    amount: Decimal


class PriceRange(NamedTuple):
    """The lowest and highest unit price of a customer's service, this month and last."""

    customer_id: int
    service: str
    customer: str
    currency: str
    low: Decimal
    high: Decimal
    low_before: Decimal | None
    high_before: Decimal | None


class Figures(NamedTuple):
    """The sums over all customers, as of an instant."""

    as_of: dt.datetime
    amounts: list[Amount]
    # The number of open bills, and the largest ones' ids, by currency.
    open_bills: dict[str, int]
    largest: dict[str, list[int]]
    prices: list[PriceRange]
    # The sum of the rounded lines of this month's bills, by currency.
    rounded: dict[str, Decimal]

    @property
    def month(self) -> dt.date:
        return month_of(self.as_of)

    @property
    def currencies(self) -> list[str]:
        """The currencies of the two months; the one with the most open bills is first."""
        found = {amount.currency for amount in self.amounts}
        return sorted(found, key=lambda currency: (-self.open_bills.get(currency, 0), currency))

    def of(self, currency: str) -> Iterator[Amount]:
        return (amount for amount in self.amounts if amount.currency == currency)


def figures(now: dt.datetime) -> Figures | None:
    """Return the figures, at most ten minutes old; None if the database gave up on them."""
    key = f"overview-{month_of(now)}"
    # Requests that arrive meanwhile wait for these figures instead of adding them up again.
    waiting.acquire(_one_at_a_time)
    try:
        kept: list[Figures | None] | None = cache.get(key)
        if kept is not None:
            return kept[0]
        began = time.monotonic()
        found = _read_unless_unavailable(now)
        took = time.monotonic() - began
        if took >= WORTH_KEEPING_SECONDS:
            most = MOST_KEPT_SECONDS if found else RETRIED_AFTER_SECONDS
            cache.set(key, [found], min(KEPT_TIMES * took, most))
        return found
    finally:
        _one_at_a_time.release()


def _read_unless_unavailable(now: dt.datetime) -> Figures | None:
    try:
        return _read(now)
    except Error as error:
        if not is_unavailable(error):
            raise
        return None


def _read(now: dt.datetime) -> Figures:
    month = month_of(now)
    months = (previous_month(month), month)
    number, largest, rounded = _bills(*months)
    return Figures(
        now,
        _amounts(months),
        number,
        largest,
        _prices(*months),
        rounded,
    )


def _amounts(months: tuple[dt.date, dt.date]) -> list[Amount]:
    rows = (
        DailyUsage.objects.filter(bill__month__in=months, day__range=READABLE_DAYS)
        .values_list("bill__currency", "bill__month", "day", "service")
        .annotate(amount=AmountSum("units", "price_per_unit"))
        .order_by()
    )
    return [Amount(*row) for row in rows]


def _bills(
    before: dt.date, month: dt.date
) -> tuple[dict[str, int], dict[str, list[int]], dict[str, Decimal]]:
    """Return the number of open bills, the largest ones' ids, and the sum of this month's lines."""
    rows = (
        DailyUsage.objects.filter(bill__month__in=(before, month))
        # A price that is not a number, which no check admits, is at most nothing.
        .filter(Q(bill__closed_at=None) | Q(bill__month=month), price_per_unit__lte=HIGHEST_PRICE)
        .values_list("bill__currency", "bill__month", "bill__closed_at", "bill_id")
        .annotate(
            digits=F("bill__minor_unit_digits"),
            price=F("price_per_unit"),
            name=F("service"),
            units_sum=ExactSum("units"),
        )
        .order_by()
    )
    open_bills: dict[str, dict[int, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    rounded: dict[str, Decimal] = defaultdict(Decimal)
    for currency, of_month, closed_at, bill_id, kept_digits, price, _, units in rows.iterator():
        digits = digits_of(currency) if kept_digits is None else kept_digits
        amount = round_amount(exact_amount(units, price), digits)
        if of_month == month:
            rounded[currency] = EXACT.add(rounded[currency], amount)
        if closed_at is None:
            totals = open_bills[currency]
            totals[bill_id] = EXACT.add(totals[bill_id], amount)
    number = {currency: len(totals) for currency, totals in open_bills.items()}
    largest = {
        currency: [
            bill_id
            for _, bill_id in heapq.nlargest(
                SHOWN, ((total, bill_id) for bill_id, total in totals.items())
            )
        ]
        for currency, totals in open_bills.items()
    }
    return number, largest, dict(rounded)


def _prices(before: dt.date, month: dt.date) -> list[PriceRange]:
    """Return services with a price over twice another of the month, or other than last month's."""
    # The bill's customer, not the row's, so that an index has all columns that are read.
    of_month, of_month_before = Q(bill__month=month), Q(bill__month=before)
    customer = Customer.objects.filter(pk=OuterRef("bill__customer"))
    rows = (
        DailyUsage.objects.filter(bill__month__in=(before, month))
        .values_list("bill__customer", "service")
        .annotate(
            name=Subquery(customer.values("name")),
            currency=Subquery(customer.values("currency")),
            low=Min("price_per_unit", filter=of_month),
            high=Max("price_per_unit", filter=of_month),
            low_before=Min("price_per_unit", filter=of_month_before),
            high_before=Max("price_per_unit", filter=of_month_before),
        )
        .filter(
            Q(high__gt=F("low") + F("low")) | ~Q(low=F("low_before")) | ~Q(high=F("high_before"))
        )
        .order_by("bill__customer", "service")
    )
    return [PriceRange(*row) for row in rows[: SHOWN + 1]]
