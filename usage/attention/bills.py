"""Findings about bills, from daily usage: the same work at any number of records."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from heapq import nlargest
from statistics import median
from typing import NamedTuple

from django.conf import settings
from django.db.models import Case, Exists, Min, OuterRef, QuerySet, Subquery, Value, When

from usage.attention.findings import (
    DAY_FACTOR,
    FEWEST_DAYS,
    MONTHS_COMPARED,
    UNUSUAL_FACTOR,
    Comparison,
    Examined,
    Finding,
    Kind,
)
from usage.database.sums import AmountSum, ExactSum
from usage.models import AcceptedDuplicates, Bill, DailyUsage, Line, PossibleDuplicates, UsageCheck
from usage.money import EXACT, exact_sum
from usage.periods import day_of, grace_end, months_up_to, next_month

# Days are read of a bill's largest services alone: an absurd day makes its service large.
_SERVICES_READ = 50

Days = dict[dt.date, Decimal]


class _ServiceDay(NamedTuple):
    units: Decimal
    amount: Decimal


def examine(bills: Sequence[Bill], now: dt.datetime) -> dict[int, Examined]:
    """Return amounts and findings of each of these bills at the instant `now`, by bill id.

    At most five queries, whatever the number of bills and records.
    """
    today = day_of(now)
    lines = DailyUsage.objects.lines_of(bills)
    open_bills = [bill for bill in bills if bill.closed_at is None]
    history = _History(
        bills,
        services={
            line.service
            for bill in open_bills
            for line in nlargest(_SERVICES_READ, lines[bill.pk], key=lambda line: line.amount)
        },
    )
    free = _services_now_free(open_bills, lines, history)
    duplicates = _duplicates(open_bills)
    examined = {}
    for bill in bills:
        comparison = history.compare(bill, today)
        if bill.closed_at is not None:
            total, findings = bill.total, []
        else:
            total = bill.total_of(lines[bill.pk])
            findings = [
                *_unusual_total(bill, comparison),
                *_unusual_days(bill, history),
                *free.get(bill.pk, []),
                *duplicates.get(bill.pk, []),
                *_late(bill, history),
                *_due(bill, total, now),
            ]
        examined[bill.pk] = Examined(
            total, lines[bill.pk], history.days[bill.pk], comparison, findings
        )
    return examined


class _History:
    """The daily usage of all bills of these customers, back to three months before.

    `ids` are the customer's bills of a bill's month and of the three before, by the bill's id.
    `days` are the amounts of all services together, and `services` has those asked for one by one.
    """

    def __init__(self, bills: Sequence[Bill], *, services: Collection[str]) -> None:
        self.bills: dict[tuple[int, dt.date], list[int]] = defaultdict(list)
        self.first_months: dict[int, dt.date] = {}
        all_bills = Bill.objects.filter(customer__in={bill.customer_id for bill in bills})
        for pk, customer_id, month in all_bills.order_by("month").values_list(
            "pk", "customer_id", "month"
        ):
            self.bills[customer_id, month].append(pk)
            self.first_months.setdefault(customer_id, month)
        self.ids = {
            bill.pk: [
                pk
                for month in months_up_to(bill.month, MONTHS_COMPARED + 1)
                for pk in self.bills.get((bill.customer_id, month), [])
            ]
            for bill in bills
        }
        self.days: dict[int, Days] = defaultdict(lambda: defaultdict(Decimal))
        self.services: dict[int, dict[str, dict[dt.date, _ServiceDay]]] = defaultdict(dict)
        of = Case(When(service__in=list(services), then="service"), default=Value(""))
        rows = (
            self.daily_usage(bills)
            .annotate(of=of)
            .values_list("bill_id", "of", "day")
            .annotate(total=ExactSum("units"), amount=AmountSum("units", "price_per_unit"))
        )
        for bill_id, service, day, units, amount in rows:
            self.days[bill_id][day] = EXACT.add(self.days[bill_id][day], amount)
            if service:
                days = self.services[bill_id].setdefault(service, {})
                days[day] = _ServiceDay(units, amount)

    def daily_usage(self, bills: Iterable[Bill]) -> QuerySet[DailyUsage]:
        """Return the daily usage of the months that these bills are compared with."""
        ids = {pk for bill in bills for pk in self.ids[bill.pk]}
        rows: QuerySet[DailyUsage] = DailyUsage.objects.filter(bill__in=ids).order_by()
        return rows

    def compare(self, bill: Bill, today: dt.date) -> Comparison:
        """Return how the customer's month compares, up to today's day while it runs."""
        is_running = today < next_month(bill.month)
        first_month = self.first_months.get(bill.customer_id, bill.month)
        month, *before = [
            exact_sum(
                amount
                for pk in self.bills.get((bill.customer_id, month), [])
                for day, amount in self.days[pk].items()
                # Late usage is older than its month, and counts from the first day on.
                if month == bill.month or not is_running or day < month or day.day <= today.day
            )
            for month in months_up_to(bill.month, MONTHS_COMPARED + 1)
            if month == bill.month or month >= first_month
        ]
        return Comparison(
            total=month,
            previous=before[0] if before else None,
            average=EXACT.divide(exact_sum(before), Decimal(len(before))) if before else None,
            is_running=is_running,
        )


def _unusual_total(bill: Bill, compared: Comparison) -> list[Finding]:
    total, average = compared.total, compared.average
    if average is None or average <= 0 or max(total, average) < settings.ATTENTION_FLOOR:
        return []
    if total > UNUSUAL_FACTOR * average:
        times = f"{total / average:,.1f}".removesuffix(".0")
        kind, text = Kind.HIGH, f"{times} times the average of the {MONTHS_COMPARED} months before"
    elif not compared.is_running and UNUSUAL_FACTOR * total < average:
        share = f"{max(total, Decimal(0)) / average:.0%}"
        kind, text = Kind.LOW, f"{share} of the average of the {MONTHS_COMPARED} months before"
    else:
        return []
    if compared.is_running:
        text += " up to the same day"
    return [Finding(kind, text, bill.month, total)]


def _unusual_days(bill: Bill, history: _History) -> list[Finding]:
    """Return the services of which a day is far above the customer's other days of them."""
    findings = []
    for service, own in history.services[bill.pk].items():
        units: Days = defaultdict(Decimal)
        for pk in history.ids[bill.pk]:
            for day, of_day in history.services[pk].get(service, {}).items():
                units[day] = EXACT.add(units[day], of_day.units)
        worst = max(own, key=lambda day: units[day])
        others = [amount for day, amount in units.items() if day != worst and amount > 0]
        if len(others) < FEWEST_DAYS or own[worst].amount < settings.ATTENTION_FLOOR:
            continue
        habit = median(others)
        if units[worst] > DAY_FACTOR * habit:
            text = f"{units[worst] / habit:,.0f} times the units of a usual day"
            findings.append(Finding(Kind.DAY, text, worst, own[worst].amount, service))
    return findings


def _services_now_free(
    bills: Sequence[Bill], lines: dict[int, list[Line]], history: _History
) -> dict[int, list[Finding]]:
    """Return the services that are used at a price of 0 after they always had one."""
    free = {
        bill.pk: [line for line in lines[bill.pk] if line.price_per_unit == 0 and line.units > 0]
        for bill in bills
    }
    services = {line.service for of_bill in free.values() for line in of_bill}
    if not services:
        return {}
    rows = (
        history.daily_usage(bills)
        .filter(service__in=services)
        .values_list("bill_id", "service", "price_per_unit")
        .annotate(Min("day"))
    )
    free_since: dict[tuple[int, str], dt.date] = {}
    paid_since: dict[tuple[int, str], dt.date] = {}
    for bill_id, service, price, day in rows:
        first_days = free_since if price == 0 else paid_since
        first_days[bill_id, service] = min(day, first_days.get((bill_id, service), day))
    findings: dict[int, list[Finding]] = defaultdict(list)
    for bill in bills:
        for line in free[bill.pk]:
            keys = [(pk, line.service) for pk in history.ids[bill.pk]]
            free_from = min(free_since.get(key, dt.date.max) for key in keys)
            paid_from = min(paid_since.get(key, dt.date.max) for key in keys)
            if paid_from < free_from == free_since[bill.pk, line.service]:
                text = f"{line.units.normalize():,f} units at a price of 0"
                findings[bill.pk].append(
                    Finding(Kind.FREE, text, free_from, Decimal(0), line.service, Decimal(0))
                )
    return findings


def _duplicates(bills: Sequence[Bill]) -> dict[int, list[Finding]]:
    """Return the possible duplicates of the last `check_usage` that staff have not accepted."""
    accepted = AcceptedDuplicates.objects.filter(
        customer=OuterRef("bill__customer"), service=OuterRef("service"), lifted_at__isnull=True
    )
    last_check = UsageCheck.objects.order_by("-finished_at").values("finished_at")[:1]
    kept = PossibleDuplicates.objects.filter(~Exists(accepted), bill__in=bills)
    findings: dict[int, list[Finding]] = defaultdict(list)
    for row in kept.annotate(checked_at=Subquery(last_check)).order_by("service", "price_per_unit"):
        text = f"{row.records:,} more of the same under other request_ids"
        findings[row.bill_id].append(
            Finding(
                Kind.DUPLICATES,
                text,
                day_of(row.since),
                row.amount,
                row.service,
                row.price_per_unit,
                tuple((second, first) for second, first in row.pairs),
                row.checked_at,
            )
        )
    return findings


def _late(bill: Bill, history: _History) -> list[Finding]:
    first = day_of(bill.period_start)
    late = {day: amount for day, amount in history.days[bill.pk].items() if day < first}
    if not late:
        return []
    text = f"Usage of {len(late)} earlier {'day' if len(late) == 1 else 'days'}"
    return [Finding(Kind.LATE, text, min(late), exact_sum(late.values()))]


def _due(bill: Bill, total: Decimal, now: dt.datetime) -> list[Finding]:
    if not bill.is_due(now):
        return []
    return [Finding(Kind.DUE, "Month and grace are over", day_of(grace_end(bill.month)), total)]
