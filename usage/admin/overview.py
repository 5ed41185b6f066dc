"""The first page: how the month goes, and what needs attention; one function for each section."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

from django.db.models import Count, Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from usage.admin import formats, traffic
from usage.admin.bill_page import change_of, per_cent, period_of
from usage.admin.charts import Value, bar_chart
from usage.admin.figures import SHOWN, Amount, Figures, PriceRange, figures
from usage.admin.records import rows_of, to_show, url_of
from usage.database.transactions import database_now
from usage.models import Bill, Customer, DailyUsage, HistoryEntry, UsageRecord
from usage.models.bill import total_of
from usage.models.customer import minor_unit_digits
from usage.money import EXACT, round_amount
from usage.periods import day_of, last_due_month, month_bounds, month_of, previous_month

_DAYS_SHOWN = 31


class Asked:
    """Who asks for the overview, and when; what several sections need is read once."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request
        self.now = database_now()
        self.today = day_of(self.now)
        self.month = month_of(self.now)
        self.last_month = previous_month(self.month)

    def may_see(self, model: str) -> bool:
        return self.request.user.has_perm(f"usage.view_{model}")

    @cached_property
    def figures(self) -> Figures | None:
        return figures(self.now)

    @cached_property
    def currency(self) -> str:
        """The currency that was asked for, or the one of most bills."""
        known = self.figures.currencies if self.figures else []
        asked = self.request.GET.get("currency", "")
        return asked if asked in known else next(iter(known), "")


class Accrued(NamedTuple):
    """What this month's bills have come to in one currency, and the last's up to the same day."""

    currency: str
    url: str
    amount: str
    before: str
    change: str


class ServiceRow(NamedTuple):
    """What one service has come to this month, and up to the same day of the last."""

    service: str
    amount: str
    before: str
    change: str
    share: float


class BillRow(NamedTuple):
    """A bill as the overview shows it."""

    url: str
    customer: SafeString
    period: str
    total: str


class PriceRow(NamedTuple):
    """A customer's service whose unit prices want a look."""

    url: str
    customer: SafeString
    service: str
    prices: str
    before: str


class Done(NamedTuple):
    """What somebody did lately."""

    at: SafeString
    actor: SafeString
    did: str
    url: str
    what: str


def month_so_far(asked: Asked) -> dict[str, Any]:
    """Return the tiles, the chart and the services of the currency asked for."""
    if not asked.may_see("bill"):
        return {}
    if asked.figures is None:
        return {"figures_missing": True}
    found = asked.figures
    accrued = {currency: _accrued(asked, found, currency) for currency in found.currencies}
    return {
        "as_of": formats.moment(found.as_of),
        "month_name": f"{asked.month:%B}",
        "same_day": f"{_same_day(asked):%-d %B}",
        "accrued": accrued.pop(asked.currency, None),
        "other_currencies": list(accrued.values()),
        "chart_caption": f"Usage per day on which it occurred, in {asked.currency}, today hatched",
        "chart": bar_chart(_days(asked, found)),
        "services": _services(asked, found),
    }


def counts(asked: Asked) -> dict[str, Any]:
    """Return how many bills are open, overdue and, of this month and the last, closed."""
    if not asked.may_see("bill"):
        return {}
    is_open = Q(closed_at=None)
    found = Bill.objects.filter(is_open | Q(month__gte=asked.last_month)).aggregate(
        open=Count("pk", filter=is_open),
        overdue=Count("pk", filter=is_open & Q(month__lte=last_due_month(asked.now))),
        closed=Count("pk", filter=~is_open),
    )
    return {
        "bills_url": reverse("admin:usage_bill_changelist"),
        "last_month_name": f"{asked.last_month:%B}",
        **{f"{state}_bills": formats.number(number) for state, number in found.items()},
    }


def bills(asked: Asked) -> dict[str, Any]:
    """Return the largest open bills of the currency asked for, and those longest overdue."""
    if not asked.may_see("bill"):
        return {}
    ids = asked.figures.largest.get(asked.currency, []) if asked.figures else []
    due = Bill.objects.due(asked.now).order_by("month", "customer_id")
    wanted = Q(pk__in=ids) | Q(pk__in=due.values("pk")[:SHOWN])
    shown = list(Bill.objects.open().filter(wanted).select_related("customer"))
    lines = DailyUsage.objects.lines_of(shown)
    totals = {bill.pk: total_of(lines.get(bill.pk, [])) for bill in shown}
    last_due = last_due_month(asked.now)
    overdue = sorted(
        (bill for bill in shown if bill.month <= last_due),
        key=lambda bill: (bill.month, bill.customer_id),
    )
    largest = sorted(
        (bill for bill in shown if bill.pk in ids), key=lambda bill: totals[bill.pk], reverse=True
    )
    return {
        "overdue": [_bill_row(bill, totals[bill.pk]) for bill in overdue[:SHOWN]],
        "largest": [_bill_row(bill, totals[bill.pk]) for bill in largest],
    }


def prices(asked: Asked) -> dict[str, Any]:
    """Return the services whose unit prices lie far apart, or are not those of last month."""
    if not asked.may_see("bill") or asked.figures is None:
        return {}
    found = asked.figures.prices
    return {
        "prices": [_price_row(asked, row) for row in found[:SHOWN]],
        "more_prices": len(found) > SHOWN,
        "last_month_name": f"{asked.last_month:%B}",
    }


def late_usage(asked: Asked) -> dict[str, Any]:
    """Return the latest late usage of this month."""
    if not asked.may_see("usagerecord"):
        return {}
    late = UsageRecord.objects.filter(late=True, recorded_at__gte=month_bounds(asked.month).start)
    newest = to_show(late).order_by("-recorded_at", "request_id")
    return {
        "late_records": rows_of(newest[:SHOWN]),
        "late_url": reverse("admin:usage_usagerecord_changelist", query={"late": 1}),
    }


def done(asked: Asked) -> dict[str, Any]:
    """Return what staff did lately."""
    if not asked.may_see("bill"):
        return {}
    entries = HistoryEntry.objects.order_by("-id")[:SHOWN]
    return {"done": [_done(entry) for entry in entries]}


def api_keys(asked: Asked) -> dict[str, Any]:
    """Return which keys have trouble today, and which nobody seems to need."""
    return traffic.overview(asked.request)


# Each has a block of its own name in the template.
SECTIONS: tuple[Callable[[Asked], dict[str, Any]], ...] = (
    counts,
    month_so_far,
    bills,
    prices,
    late_usage,
    done,
    api_keys,
)


def overview(request: HttpRequest) -> dict[str, Any]:
    """Return what the user may see of every section."""
    asked = Asked(request)
    return {name: shown for section in SECTIONS for name, shown in section(asked).items()}


def _same_day(asked: Asked) -> dt.date:
    """Return today's day of the last month, or that month's last."""
    last = asked.month - dt.timedelta(days=1)
    return last.replace(day=min(asked.today.day, last.day))


def _sum(amounts: Iterable[Amount]) -> Decimal:
    total = Decimal(0)
    for amount in amounts:
        total = EXACT.add(total, amount.amount)
    return total


def _so_far(asked: Asked, amounts: Iterable[Amount]) -> tuple[Decimal, Decimal]:
    """Return what this month's bills have come to, and the last's up to the same day."""
    sums = {asked.month: Decimal(0), asked.last_month: Decimal(0)}
    for amount in amounts:
        if amount.month == asked.month or amount.day <= _same_day(asked):
            sums[amount.month] = EXACT.add(sums[amount.month], amount.amount)
    return sums[asked.month], sums[asked.last_month]


def _money(amount: Decimal, currency: str) -> str:
    return formats.money(round_amount(amount, minor_unit_digits(currency)), currency)


def _accrued(asked: Asked, found: Figures, currency: str) -> Accrued:
    amount, before = _so_far(asked, found.of(currency))
    return Accrued(
        currency,
        reverse("admin:index", query={"currency": currency}),
        _money(amount, currency),
        _money(before, currency),
        change_of(amount, before),
    )


def _days(asked: Asked, found: Figures) -> list[Value]:
    amounts: dict[dt.date, Decimal] = defaultdict(Decimal)
    for amount in found.of(asked.currency):
        amounts[amount.day] = EXACT.add(amounts[amount.day], amount.amount)
    days = [asked.today - dt.timedelta(days=back) for back in reversed(range(_DAYS_SHOWN))]
    return [
        Value(
            f"{day}",
            amounts[day],
            _money(amounts[day], asked.currency),
            "today" * (day == asked.today),
        )
        for day in days
    ]


def _services(asked: Asked, found: Figures) -> list[ServiceRow]:
    """Return the services that cost most this month, and all others together."""
    by_service: dict[str, list[Amount]] = defaultdict(list)
    for amount in found.of(asked.currency):
        by_service[amount.service].append(amount)
    sums = {service: _so_far(asked, amounts) for service, amounts in by_service.items()}
    ordered = sorted(sums, key=lambda service: (-sums[service][0], service))
    rows = [(service, *sums[service]) for service in ordered[:SHOWN]]
    if rest := ordered[SHOWN:]:
        others = [amount for service in rest for amount in by_service[service]]
        rows.append((f"{len(rest)} others", *_so_far(asked, others)))
    charged = sum((amount for _, amount, _ in rows if amount > 0), Decimal(0))
    return [
        ServiceRow(
            service,
            _money(amount, asked.currency),
            _money(before, asked.currency),
            change_of(amount, before),
            per_cent(amount, charged),
        )
        for service, amount, before in rows
    ]


def _bill_row(bill: Bill, total: Decimal) -> BillRow:
    return BillRow(
        reverse("admin:usage_bill_change", args=[bill.pk]),
        formats.customer(bill.customer),
        period_of(bill),
        formats.money(total, bill.currency),
    )


def _price_row(asked: Asked, row: PriceRange) -> PriceRow:
    query = {"customer": row.customer_id, "service": row.service, "since": f"{asked.last_month}"}
    before = ""
    if row.low_before is not None and row.high_before is not None:
        before = _range(row.low_before, row.high_before, row.currency)
    return PriceRow(
        reverse("admin:usage_usagerecord_changelist", query=query),
        formats.customer(Customer(id=row.customer_id, name=row.customer)),
        row.service,
        _range(row.low, row.high, row.currency),
        before,
    )


def _range(low: Decimal, high: Decimal, currency: str) -> str:
    ends = dict.fromkeys(formats.exact_money(price, currency) for price in (low, high))
    return " to ".join(ends)


def _done(entry: HistoryEntry) -> Done:
    if entry.record_id:
        url, what = url_of(entry.record_id), entry.record_id
    else:
        url, what = (
            reverse("admin:usage_bill_change", args=[entry.bill_id]),
            f"bill {entry.bill_id}",
        )
    return Done(formats.moment(entry.at), formats.name(entry.actor), entry.action, url, what)
