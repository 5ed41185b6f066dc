"""Verifying bills: everything they say is computed again, from the usage records themselves.

The sums come sorted from the database and are compared as they pass, so that memory depends
neither on the number of records nor on that of bills.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from heapq import merge
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import NamedTuple, cast

from django.db.models import Q, QuerySet

from usage.database.transactions import snapshot
from usage.models import Bill, BillingTimeZone, DailyUsage, UsageRecord
from usage.models.bill import BillQuerySet
from usage.money import EXACT, exact_amount, plain, round_amount
from usage.verification import placement
from usage.verification.difference import Difference, counted, signed
from usage.verification.past_days import past_sums
from usage.verification.sums import Day, recorded, side_by_side, summed
from usage.verification.unreadable import unreadable_rows

_BILLS_AT_ONCE = 500


class Verification:
    """One reading of some bills, or of all; `bills` and `records` count the rows read."""

    def __init__(self, bills: BillQuerySet | None = None) -> None:
        self.bills = 0
        self.records = 0
        self._is_whole = bills is None
        self._bills = Bill.objects.with_unreadable() if bills is None else bills
        self._usage = Q() if bills is None else Q(bill__in=bills.order_by().values("pk"))

    def differences(self) -> Iterator[Difference]:
        """Yield every difference, all from one state of the database."""
        bills = self._bills
        records = UsageRecord.objects.filter(self._usage)
        daily_usage = DailyUsage.objects.filter(self._usage)
        with snapshot():
            BillingTimeZone.objects.confirm()
            if rows := list(unreadable_rows(bills, daily_usage, records)):
                yield from (row.difference for row in rows)
                # The usage of a bill that cannot be read can be compared with nothing.
                known = ~Q(bill__in=[row.bill_id for row in rows if row.model is Bill])
                bills = bills.readable()
                records = records.readable().filter(known)
                daily_usage = daily_usage.readable().filter(known)
            yield from self._sums(bills, records, daily_usage)
            yield from placement.states(bills)
            yield from placement.periods(bills)
            yield from placement.misplaced_records(records)
            yield from placement.misplaced_daily_usage(daily_usage)
            yield from placement.voids(records)
            if self._is_whole:
                yield from past_sums()

    def _sums(
        self,
        bills: QuerySet[Bill],
        records: QuerySet[UsageRecord, UsageRecord],
        daily_usage: QuerySet[DailyUsage, DailyUsage],
    ) -> Iterator[Difference]:
        usage = side_by_side(recorded(records), summed(daily_usage))
        by_bill = attrgetter("bill_id")
        parts: Iterator[ShownBill | Day] = merge(_shown(bills), usage, key=by_bill)
        for _, found in groupby(parts, key=by_bill):
            yield from self._compared(found)

    def _compared(self, found: Iterator[ShownBill | Day]) -> Iterator[Difference]:
        # Of what belongs to one bill the bill itself comes first: its stream was named first.
        first = next(found)
        if isinstance(first, ShownBill):
            self.bills += 1
            return _off_bill(first, self._counted(found))
        return iter([_no_bill(first.bill_id, self._counted(chain([first], found)))])

    def _counted(self, days: Iterable[ShownBill | Day]) -> Iterator[Day]:
        for day in cast("Iterable[Day]", days):
            self.records += day.recorded.records
            yield day


class ShownBill(NamedTuple):
    """A bill with the sum of the lines it shows."""

    bill_id: int
    bill: Bill
    lines_total: Decimal


def _shown(bills: QuerySet[Bill]) -> Iterator[ShownBill]:
    ordered = bills.select_related("customer").order_by("pk").iterator()
    while some := list(islice(ordered, _BILLS_AT_ONCE)):
        lines = DailyUsage.objects.lines_of(some)
        for bill in some:
            yield ShownBill(bill.pk, bill, bill.total_of(lines[bill.pk]))


def _off_bill(shown: ShownBill, days: Iterator[Day]) -> Iterator[Difference]:
    """Compare a bill's days, total and currency with its records and its customer."""
    bill = shown.bill
    digits, customers_digits = bill.digits, bill.customer.digits
    total, customers_total, records = Decimal(0), Decimal(0), 0
    for price, line in groupby(days, key=lambda day: (day.service, day.price)):
        units = Decimal(0)
        for day in line:
            units = EXACT.add(units, day.recorded.units)
            records += day.recorded.records
            if day.recorded != day.daily_usage:
                yield _off_day(day, bill.currency)
        amount = exact_amount(units, price[1])
        total = EXACT.add(total, round_amount(amount, digits))
        customers_total = EXACT.add(customers_total, round_amount(amount, customers_digits))
    if not records:
        yield Difference(bill.pk, "I5", "there is no record on it.")
    if bill.currency != bill.customer.currency:
        yield _off_currency(bill, total, customers_total)
    yield from _off_totals(shown, total)


def _off_totals(shown: ShownBill, total: Decimal) -> Iterator[Difference]:
    """Compare what a bill states with the `total` of its records, and with its lines."""
    closed_total = shown.bill.closed_total
    if shown.bill.is_closed != (closed_total is not None):
        yield _half_closed(shown.bill, total)
    stated = shown.lines_total if closed_total is None else closed_total
    for other, source in ((total, "its records"), (shown.lines_total, "its lines")):
        if stated != other:
            yield _off_total(shown, stated, other, source)


def _half_closed(bill: Bill, total: Decimal) -> Difference:
    stated = bill.closed_total or Decimal(0)
    amount = EXACT.subtract(stated, total)
    said = "closed without a total" if bill.is_closed else f"open with a fixed {plain(stated)}"
    return Difference(
        bill.pk,
        "I5",
        f"it is {said}, its records make {plain(total)}: off by {signed(amount)} {bill.currency}.",
        amount=amount,
    )


def _off_currency(bill: Bill, total: Decimal, customers_total: Decimal) -> Difference:
    amount = EXACT.subtract(customers_total, total)
    return Difference(
        bill.pk,
        "currency",
        f"it is in {bill.currency}, its customer's currency is {bill.customer.currency}:"
        f" computed in that, its total of {plain(total)} would change by {signed(amount)}.",
        amount=amount,
    )


def _off_day(day: Day, currency: str) -> Difference:
    amount = exact_amount(day.units, day.price)
    return Difference(
        day.bill_id,
        "I5",
        f"daily usage of {day.service!r} at {plain(day.price)} on {day.day} has"
        f" {counted(day.daily_usage.units, 'unit')} in"
        f" {counted(day.daily_usage.records, 'record')}, the records have"
        f" {plain(day.recorded.units)} in {day.recorded.records}: off by {signed(day.units)} in"
        f" units, {day.daily_usage.records - day.recorded.records:+d} in records,"
        f" {signed(amount)} {currency}.",
        day.units,
        amount,
    )


def _off_total(shown: ShownBill, stated: Decimal, other: Decimal, source: str) -> Difference:
    amount = EXACT.subtract(stated, other)
    return Difference(
        shown.bill_id,
        "I5",
        f"the total shown is {plain(stated)}, {source} make {plain(other)}:"
        f" off by {signed(amount)} {shown.bill.currency}.",
        amount=amount,
    )


def _no_bill(bill_id: int, days: Iterator[Day]) -> Difference:
    units, amount, records, rows = Decimal(0), Decimal(0), 0, 0
    for day in days:
        found = day.recorded if day.recorded.records else day.daily_usage
        units = EXACT.add(units, found.units)
        amount = EXACT.add(amount, exact_amount(found.units, day.price))
        records, rows = records + day.recorded.records, rows + day.daily_usage.records
    return Difference(
        bill_id,
        "I8",
        f"the bill does not exist, but holds {counted(records, 'record')} and daily usage of"
        f" {counted(rows, 'record')}: {counted(units, 'unit')}, {plain(amount)} in money.",
        units,
        amount,
    )
