"""Verifying bills: everything they say is computed again, from the usage records themselves.

The sums come sorted from the database and are compared as they pass, so that memory depends
neither on the number of records nor on that of bills.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from heapq import merge
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import Any, NamedTuple

from django.db.models import Q, QuerySet

from usage.database.transactions import snapshot
from usage.models import Bill, BillingTimeZone, DailyUsage, UsageRecord
from usage.models.base import FrozenQuerySet
from usage.models.bill import BillQuerySet
from usage.money import EXACT, exact_amount, plain, round_amount
from usage.verification import placement
from usage.verification.difference import Difference, counted, signed
from usage.verification.past_days import past_sums
from usage.verification.sums import Day, recorded, side_by_side, summed

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
            unreadable_bills = list(_unreadable(bills, "pk"))
            unreadable = [
                *unreadable_bills,
                *_unreadable(daily_usage, "bill_id"),
                *_unreadable(records, "bill_id"),
            ]
            if unreadable:
                yield from unreadable
                # The usage of a bill that cannot be read can be compared with nothing.
                known = ~Q(bill__in=[difference.bill_id for difference in unreadable_bills])
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
        usage = self._counted(side_by_side(recorded(records), summed(daily_usage)))
        by_bill = attrgetter("bill_id")
        parts: Iterator[Any] = merge(_shown(bills), usage, key=by_bill)
        for bill_id, of_bill in groupby(parts, key=by_bill):
            # The bill itself comes before its days, if it exists: its stream is named first.
            days = iter(of_bill)
            first = next(days)
            if isinstance(first, ShownBill):
                self.bills += 1
                yield from _off_bill(first, days)
            else:
                yield _no_bill(bill_id, chain([first], days))

    def _counted(self, days: Iterator[Day]) -> Iterator[Day]:
        for day in days:
            self.records += day.recorded.records
            yield day


def _unreadable(rows: FrozenQuerySet[Any], bill: str) -> Iterator[Difference]:
    """Find the rows that Python cannot read, by reading no more than their keys.

    They were in their table before its check, or came past it.
    """
    meta = rows.model._meta
    for key, bill_id in rows.unreadable().order_by().values_list("pk", bill):
        yield Difference(
            bill_id,
            "unreadable",
            f"{meta.verbose_name} {key!r} has a value that cannot be read, such as NaN, infinity,"
            f" or a date that does not exist or lies before 1970: correct it in {meta.db_table}.",
        )


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
    """Compare a bill's days and total with its records, and its currency with its customer's."""
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
    yield from _off_totals(shown, total, customers_total)


def _off_totals(shown: ShownBill, total: Decimal, customers_total: Decimal) -> Iterator[Difference]:
    """Compare what a bill states with its lines, and with the total of its records.

    That total is given in the bill's currency, and in its customer's.
    """
    bill = shown.bill
    if bill.currency != bill.customer.currency:
        amount = EXACT.subtract(customers_total, total)
        yield Difference(
            bill.pk,
            "currency",
            f"it is in {bill.currency}, its customer's currency is {bill.customer.currency}:"
            f" computed in that, its total of {plain(total)} would change by {signed(amount)}.",
            amount=amount,
        )
    stated = bill.closed_total
    if bill.is_closed != (stated is not None):
        amount = EXACT.subtract(stated or Decimal(0), total)
        said = "closed without a total" if stated is None else f"open with a fixed {plain(stated)}"
        yield Difference(
            bill.pk,
            "I5",
            f"it is {said}, its records make {plain(total)}:"
            f" off by {signed(amount)} {bill.currency}.",
            amount=amount,
        )
    if stated is None:
        stated = shown.lines_total
    for other, source in ((total, "its records"), (shown.lines_total, "its lines")):
        if stated != other:
            amount = EXACT.subtract(stated, other)
            yield Difference(
                bill.pk,
                "I5",
                f"the total shown is {plain(stated)}, {source} make {plain(other)}:"
                f" off by {signed(amount)} {bill.currency}.",
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
