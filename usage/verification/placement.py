"""Whether bills, records, daily usage and voids are where the rules of bills put them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import Any

from django.db.models import Count, F, Min, OuterRef, Q, QuerySet, Subquery, lookups

from usage.database.sums import ExactSum
from usage.models import Bill, Customer, DailyUsage, HistoryEntry, UsageRecord
from usage.models.usage_record import VOID_PREFIX
from usage.money import EXACT, exact_amount, plain
from usage.periods import CLOCK_SKEW, month_bounds
from usage.verification.difference import Difference, counted


def states(bills: QuerySet[Bill]) -> Iterator[Difference]:
    """Compare whether and when bills are closed with what their history says."""
    closing = HistoryEntry.objects.filter(bill=OuterRef("pk"), action=HistoryEntry.Action.CLOSED)
    rows = bills.annotate(said=Subquery(closing.values("at")[:1])).filter(
        Q(closed_at__isnull=True, said__isnull=False)
        | Q(closed_at__isnull=False, said__isnull=True)
        | Q(closed_at__lt=F("said"))
        | Q(closed_at__gt=F("said"))
    )
    names = ("pk", "closed_at", "said")
    for pk, *instants in rows.order_by("pk").values_list(*names).iterator():
        state, said = (f"closed at {at}" if at else "open" for at in instants)
        yield Difference(pk, "history", f"it is {state}, but its history says that it is {said}.")


def periods(bills: QuerySet[Bill]) -> Iterator[Difference]:
    """Compare the periods of all bills of the customers who are billed by `bills`."""
    customers = Customer.objects.filter(pk__in=bills.order_by().values("customer"))
    ordered = Bill.objects.filter(customer__in=customers.order_by())
    rows = ordered.order_by("customer_id", "period_start", "pk").iterator()
    for _, of_customer in groupby(rows, key=attrgetter("customer_id")):
        ends: dict[dt.date, dt.datetime] = {}
        still_open: dict[dt.date, int] = {}
        last: Bill | None = None
        for bill in of_customer:
            month = month_bounds(bill.month)
            start = ends.get(bill.month, month.start)
            end = min(month.end, bill.closed_at or month.end)
            if (bill.period_start, bill.period_end) != (start, end):
                yield Difference(
                    bill.pk,
                    "I7",
                    f"its period is {bill.period_start} to {bill.period_end}, but should be, in"
                    f" {bill.month:%Y-%m}, {start} to {end}: off by"
                    f" {(bill.period_start - start).total_seconds():+.3f} s and"
                    f" {(bill.period_end - end).total_seconds():+.3f} s.",
                )
            if last and bill.period_start < last.period_end:
                overlap = min(bill.period_end, last.period_end) - bill.period_start
                yield Difference(
                    bill.pk, "I7", f"its period overlaps bill {last.pk}'s by {overlap}."
                )
            if not bill.is_closed and still_open.setdefault(bill.month, bill.pk) != bill.pk:
                yield Difference(
                    bill.pk, "I7", f"bill {still_open[bill.month]} is open for its month."
                )
            ends[bill.month] = bill.period_end
            last = bill if last is None or bill.period_end > last.period_end else last


_OTHER_CUSTOMER = ~Q(customer=F("bill__customer"))
_MISPLACED = (
    ("I8", _OTHER_CUSTOMER, "of a customer other than the bill's"),
    ("I6", Q(recorded_at__gt=F("bill__closed_at")), "recorded after the bill was closed"),
    ("late", Q(late=True, occurred_at__gte=F("bill__period_start")), "marked late, but not late"),
    (
        "late",
        Q(late=False, occurred_at__lt=F("bill__period_start")),
        "late, but not marked late",
    ),
)


def misplaced_records(records: QuerySet[UsageRecord, UsageRecord]) -> Iterator[Difference]:
    """Find the records that their bill, or its period, does not admit."""
    for invariant, condition, said in (*_MISPLACED, *_off_month(records)):
        rows = (
            records.filter(condition)
            .values_list("bill_id", "service", "price_per_unit")
            .annotate(ExactSum("units"), Count("pk"), Min("pk"))
            .order_by("bill_id", "service", "price_per_unit")
            .iterator()
        )
        for bill_id, service, price, units, count, first in rows:
            of_line = f"{counted(count, 'record')} of {service!r} at {plain(price)}"
            what = f"{of_line}, the first {first!r}, {said}"
            yield _misplaced(bill_id, invariant, what, units, price)


def _off_month(records: QuerySet[UsageRecord, UsageRecord]) -> Iterator[tuple[str, Q, str]]:
    """Yield conditions like those above for records that do not belong in their bill's month.

    Only Python knows when a month begins and ends, so the months of bills that may have such
    records are read first. `periods` finds a bill whose period leaves its month.
    """
    suspects = records.filter(
        Q(occurred_at__gte=F("bill__period_end"))
        | Q(recorded_at__lt=F("bill__period_start"))
        | Q(late=True, recorded_at__gte=F("bill__period_end"))
    )
    occurred_after, recorded_before, late = Q(), Q(), Q()
    for month in suspects.order_by().values_list("bill__month", flat=True).distinct():
        start, end = month_bounds(month)
        of_month = Q(bill__month=month)
        occurred_after |= of_month & Q(occurred_at__gte=end)
        recorded_before |= of_month & Q(recorded_at__lt=start - CLOCK_SKEW)
        # Only a void goes, after the month, on the bill of the record it cancels.
        not_of_bill = ~Q(voids__bill=F("bill"))
        late |= of_month & Q(occurred_at__lt=start, recorded_at__gte=end) & not_of_bill
    if occurred_after:
        yield "month", occurred_after, "occurred after the bill's month"
        yield "month", recorded_before, "recorded before the bill's month"
        yield "month", late, "occurred before the bill's month, and recorded after it"


def misplaced_daily_usage(daily_usage: QuerySet[DailyUsage, DailyUsage]) -> Iterator[Difference]:
    """Find the daily usage of a customer other than its bill's."""
    for row in daily_usage.filter(_OTHER_CUSTOMER).order_by("bill_id", "pk").iterator():
        what = (
            f"daily usage of {row.service!r} at {plain(row.price_per_unit)} on {row.day}"
            f" belongs to customer {row.customer_id}, not to the bill's"
        )
        yield _misplaced(row.bill_id, "I8", what, row.units, row.price_per_unit)


def voids(records: QuerySet[UsageRecord, UsageRecord]) -> Iterator[Difference]:
    """Find the voids that do not mirror their records; there are few, since people make them."""
    # With voids__isnull, Django would join as if no void had lost its record.
    is_void = Q(lookups.IsNull(F("voids"), False))  # noqa: FBT003 - Django's
    voids = records.filter(Q(units__lt=0) | is_void).select_related("voids")
    for void in voids.order_by("bill_id", "pk").iterator():
        voided = void.voids  # None if the database has lost it
        units = EXACT.add(void.units, voided.units) if voided else void.units
        if units or not voided or _kept_by_void(void) != _kept_by_void(voided) or voided.voids_id:
            what = f"{void.pk!r} does not mirror {void.voids_id!r}"
            yield _misplaced(void.bill_id, "void", what, units, void.price_per_unit)
        # Records are cancelled once at most because a void's id is made from theirs.
        elif void.pk != (due := VOID_PREFIX + voided.pk):
            what = f"{void.pk!r} cancels {voided.pk!r}, whose only void is {due!r}"
            yield _misplaced(void.bill_id, "void", what, void.units, void.price_per_unit)


def _kept_by_void(record: UsageRecord) -> tuple[Any, ...]:
    return record.customer_id, record.service, record.price_per_unit, record.occurred_at


def _misplaced(
    bill_id: int, invariant: str, what: str, units: Decimal, price: Decimal
) -> Difference:
    amount = exact_amount(units, price)
    detail = f"{what}: {counted(units, 'unit')}, {plain(amount)} in money."
    return Difference(bill_id, invariant, detail, units, amount)
