"""The sums of this month's and last month's bills by currency, day, service and bill.

They are read from daily usage, so the work grows with customers and services, and not with records:
its rows are read once for the lines of all bills, and once for the days. In place of the rows of
past days their kept sums are read. Figures that took long are kept for a while, with the time they
were made.
"""

from __future__ import annotations

import datetime as dt
import heapq
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple

from django.core.cache import cache
from django.db import Error

from usage.currencies import digits_of
from usage.database import deadline
from usage.database.postgresql import waiting
from usage.database.transactions import group_in_index_order, is_unavailable, snapshot
from usage.models import Bill, DailyUsage, PastDays
from usage.models.daily_usage import Amount
from usage.models.past_days import NO_SUMS
from usage.money import EXACT, exact_amount, round_amount
from usage.periods import month_of, previous_month

SHOWN = 10
# Figures that take less are added up anew for every page. Others are kept a hundred times as long
# as they took, so that adding up is at most a hundredth of a process's time.
WORTH_KEEPING_SECONDS = 0.1
KEPT_TIMES, MOST_KEPT_SECONDS = 100, 600
RETRIED_AFTER_SECONDS = 60
_one_at_a_time = threading.Lock()


class PriceRange(NamedTuple):
    """The lowest and highest unit price of a customer's service; `before`, those of last month."""

    customer_id: int
    service: str
    customer: str
    currency: str
    low: Decimal
    high: Decimal
    before: tuple[Decimal, Decimal] | None


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
        try:
            # Otherwise the sums of large books would keep usage from being recorded meanwhile.
            with deadline.slow_by_nature():
                found: Figures | None = _read(now)
        except Error as error:
            if not is_unavailable(error):
                raise
            found = None
        took = time.monotonic() - began
        if took >= WORTH_KEEPING_SECONDS:
            most = MOST_KEPT_SECONDS if found else RETRIED_AFTER_SECONDS
            cache.set(key, [found], min(KEPT_TIMES * took, most))
        return found
    finally:
        _one_at_a_time.release()


# A bill by its id, as far as its lines are added up.
_Bills = Mapping[int, Any]
# The units of each bill, service and unit price.
_Lines = Mapping[tuple[int, str, Decimal], Decimal]


def _read(now: dt.datetime) -> Figures:
    month = month_of(now)
    months = (previous_month(month), month)
    with snapshot(statement_timeout=True):
        past = PastDays.objects.sums()
        # After the clock was set back, bills are missing in them.
        if past.until and previous_month(past.until.replace(day=1)) > months[0]:
            past = NO_SUMS
        rows = DailyUsage.objects.not_past(past.until)
        kept = (amount for amount in past.amounts if amount.month in months)
        amounts = _added(kept, rows.filter(bill__month__in=months).amount_sums())
        bills = _bills(months)
        if past.until is None:
            group_in_index_order()
        of_bills = (line for line in past.lines if line.bill_id in bills)
        rows = rows.filter(bill__in=Bill.objects.filter(month__in=months))
        lines = _added(of_bills, rows.line_sums())
    number, largest, rounded = _totals(bills, lines, month)
    exact = [Amount._make((*key, amount)) for key, amount in amounts.items()]
    return Figures(now, exact, number, largest, _prices(bills, lines, month), rounded)


def _bills(months: tuple[dt.date, dt.date]) -> _Bills:
    bills = Bill.objects.filter(month__in=months).values_list(
        *("pk", "customer", "customer__name", "customer__currency"),
        *("currency", "month", "closed_at", "minor_unit_digits"),
        named=True,
    )
    return {bill.pk: bill for bill in bills}


def _added(
    kept: Iterable[tuple[Any, ...]], others: Iterable[tuple[Any, ...]]
) -> dict[Any, Decimal]:
    """Return the sums of rows that end with a number, by the values before it."""
    sums: dict[Any, Decimal] = {}
    for row in chain(kept, others):
        key = row[:-1]
        sums[key] = EXACT.add(sums[key], row[-1]) if key in sums else row[-1]
    return sums


def _totals(
    bills: _Bills, lines: _Lines, month: dt.date
) -> tuple[dict[str, int], dict[str, list[int]], dict[str, Decimal]]:
    """Return the number of open bills, the largest ones' ids, and the sum of this month's lines."""
    digits = {
        bill_id: digits_of(bill.currency)
        if bill.minor_unit_digits is None
        else bill.minor_unit_digits
        for bill_id, bill in bills.items()
        if bill.month == month or bill.closed_at is None
    }
    totals: dict[int, Decimal] = {}
    for (bill_id, _, price), units in lines.items():
        if bill_id in digits:
            amount = round_amount(exact_amount(units, price), digits[bill_id])
            totals[bill_id] = EXACT.add(totals.get(bill_id, Decimal(0)), amount)
    open_bills: dict[str, list[tuple[Decimal, int]]] = defaultdict(list)
    rounded: dict[str, Decimal] = defaultdict(Decimal)
    for bill_id, total in totals.items():
        bill = bills[bill_id]
        if bill.month == month:
            rounded[bill.currency] = EXACT.add(rounded[bill.currency], total)
        if bill.closed_at is None:
            open_bills[bill.currency].append((total, bill_id))
    number = {currency: len(of_bills) for currency, of_bills in open_bills.items()}
    largest = {
        currency: [bill_id for _, bill_id in heapq.nlargest(SHOWN, of_bills)]
        for currency, of_bills in open_bills.items()
    }
    return number, largest, dict(rounded)


def _prices(bills: _Bills, lines: _Lines, month: dt.date) -> list[PriceRange]:
    """Return services with a price over twice another of the month, or other than last month's."""
    ranges: dict[bool, dict[tuple[int, str], tuple[Decimal, Decimal]]] = {True: {}, False: {}}
    of_bill = {
        bill_id: (bill.customer, ranges[bill.month == month]) for bill_id, bill in bills.items()
    }
    for bill_id, service, price in lines:
        customer_id, of_month = of_bill[bill_id]
        key = customer_id, service
        if known := of_month.get(key):
            of_month[key] = min(known[0], price), max(known[1], price)
        else:
            of_month[key] = price, price
    customers = {bill.customer: bill for bill in bills.values()}
    found = []
    for key, (low, high) in ranges[True].items():
        before = ranges[False].get(key)
        if high > low + low or (before and before != (low, high)):
            of = customers[key[0]]
            found.append(
                PriceRange(*key, of.customer__name, of.customer__currency, low, high, before)
            )
    return heapq.nsmallest(SHOWN + 1, found)
