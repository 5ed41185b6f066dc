"""The overview: the month so far, and what needs attention. One function for each section."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from functools import cached_property
from typing import Any

from django.contrib import admin
from django.db.models import Count, Max, Q, Subquery
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from usage.admin import formats, traffic
from usage.admin.charts import Value, bar_chart
from usage.admin.figures import SHOWN, Figures, figures
from usage.admin.rows import bill_cells, history_cells, record_cells, with_cells
from usage.currencies import digits_of
from usage.database.transactions import database_now
from usage.models import Bill, Customer, HistoryEntry, UsageCheck, UsageRecord
from usage.models.daily_usage import Amount
from usage.money import EXACT, round_amount
from usage.periods import day_of, last_due_month, month_bounds, month_of, previous_month

_DAYS_SHOWN = 31


class Visit:
    """Who looks at the overview, and when. Values that several sections need are read once."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request
        self.now = database_now()
        self.today = day_of(self.now)
        self.month = month_of(self.now)
        self.last_month = previous_month(self.month)
        # Today's day in last month, or that month's last day.
        last = self.month - dt.timedelta(days=1)
        self.same_day = last.replace(day=min(self.today.day, last.day))

    def may_see(self, model: str) -> bool:
        return self.request.user.has_perm(f"usage.view_{model}")

    @cached_property
    def figures(self) -> Figures | None:
        return figures(self.now)

    @cached_property
    def currency(self) -> str:
        """The currency in the address, or the one of most bills."""
        known = self.figures.currencies if self.figures else []
        wanted = self.request.GET.get("currency", "")
        return wanted if wanted in known else next(iter(known), "")


def month_so_far(visit: Visit) -> dict[str, Any]:
    """Return the sum of each currency, and the chart and the services in the currency shown."""
    if visit.figures is None:
        return {"figures_missing": True}
    found = visit.figures
    accrued = {}
    for currency in found.currencies:
        amount, before = _so_far(visit, found.of(currency))
        rounding = EXACT.subtract(found.rounded.get(currency, amount), amount)
        accrued[currency] = {
            "currency": currency,
            "url": reverse("admin:index", query={"currency": currency}),
            "amount": _money(amount, currency),
            "before": _money(before, currency),
            "change": formats.change(amount, before),
            "rounding": formats.exact_money(rounding, currency),
        }
    return {
        "as_of": formats.moment(found.as_of),
        "month_name": f"{visit.month:%B}",
        "same_day": f"{visit.same_day:%-d %B}",
        "accrued": accrued.pop(visit.currency, None),
        "other_currencies": list(accrued.values()),
        "chart_caption": f"Usage per day on which it occurred, in {visit.currency}, today hatched",
        "chart": bar_chart(_days(visit, found)),
        "services": _services(visit, found),
    }


def counts(visit: Visit) -> dict[str, Any]:
    """Return how many bills are open, due and, of this month and last, closed."""
    is_open = Q(closed_at=None)
    found = Bill.objects.filter(is_open | Q(month__gte=visit.last_month)).aggregate(
        open=Count("pk", filter=is_open),
        due=Count("pk", filter=is_open & Q(month__lte=last_due_month(visit.now))),
        closed=Count("pk", filter=~is_open),
        # The same for every row, and read here to spare a query.
        blocking=Max(Subquery(UsageCheck.objects.order_by("-finished_at").values("blocking")[:1])),
    )
    blocking = found.pop("blocking")
    return {
        "bills_url": reverse("admin:usage_bill_changelist"),
        "to_close_url": reverse("admin:usage_bill_to-close"),
        "attention_url": reverse("admin:usage_bill_attention"),
        "blocking": blocking,
        "last_month_name": f"{visit.last_month:%B}",
        **{f"{state}_bills": formats.number(number) for state, number in found.items()},
    }


def bills(visit: Visit) -> dict[str, Any]:
    """Return the largest open bills in the currency shown, and the oldest due ones."""
    ids = visit.figures.largest.get(visit.currency, []) if visit.figures else []
    due = Bill.objects.due(visit.now).order_by("month", "customer_id")
    wanted = Q(pk__in=ids) | Q(pk__in=due.values("pk")[:SHOWN])
    oldest_first = Bill.objects.open().filter(wanted).order_by("month", "customer_id")
    shown = list(oldest_first.select_related("customer", "hold"))
    rows = list(zip(shown, bill_cells(shown, visit.now), strict=True))
    due_rows = [cells for bill, cells in rows if bill.is_due(visit.now)]
    largest = [cells for bill, cells in rows if bill.pk in ids]
    return {
        "due": due_rows[:SHOWN],
        "largest": sorted(largest, key=lambda cells: cells["amount"], reverse=True),
    }


def prices(visit: Visit) -> dict[str, Any]:
    """Return the services whose unit prices are far apart, or differ from last month's."""
    if visit.figures is None:
        return {}
    found = visit.figures.prices
    since = f"{visit.last_month}"
    rows = [
        {
            "url": reverse(
                "admin:usage_usagerecord_changelist",
                query={"customer": row.customer_id, "service": row.service, "since": since},
            ),
            "customer": formats.customer(Customer(id=row.customer_id, name=row.customer)),
            "service": row.service,
            "prices": _range(row.low, row.high, row.currency),
            "before": _range(*row.before, row.currency) if row.before else "",
        }
        for row in found[:SHOWN]
    ]
    return {"prices": rows, "more_prices": len(found) > SHOWN}


def late_usage(visit: Visit) -> dict[str, Any]:
    """Return the latest late usage of this month."""
    late = UsageRecord.objects.filter(
        bill__in=Bill.objects.all(), late=True, recorded_at__gte=month_bounds(visit.month).start
    )
    newest = with_cells(late).order_by("-recorded_at", "request_id")
    return {
        "late_records": [record_cells(record) for record in newest[:SHOWN]],
        "late_url": reverse("admin:usage_usagerecord_changelist", query={"late": 1}),
    }


def done() -> dict[str, Any]:
    """Return the latest acts of staff."""
    entries = list(HistoryEntry.objects.order_by("-id")[: 2 * SHOWN])
    # A void on another bill is in the histories of both bills.
    acts = {(entry.action, entry.record_id or entry.pk): entry for entry in reversed(entries)}
    latest = sorted(acts.values(), key=lambda entry: entry.pk, reverse=True)
    return {"done": [history_cells(entry) for entry in latest[:SHOWN]]}


def overview(request: HttpRequest) -> HttpResponse:
    """Show the admin's first page with every section that the user may see."""
    visit = Visit(request)
    shown = traffic.overview(request)
    if visit.may_see("bill"):
        shown |= counts(visit) | month_so_far(visit) | bills(visit) | prices(visit) | done()
    if visit.may_see("usagerecord"):
        shown |= late_usage(visit)
    return admin.site.index(request, shown)


def _so_far(visit: Visit, amounts: Iterable[Amount]) -> tuple[Decimal, Decimal]:
    """Return the sum of this month, and of last month up to the same day."""
    sums = {visit.month: Decimal(0), visit.last_month: Decimal(0)}
    for amount in amounts:
        if amount.month == visit.month or amount.day <= visit.same_day:
            sums[amount.month] = EXACT.add(sums[amount.month], amount.amount)
    return sums[visit.month], sums[visit.last_month]


def _money(amount: Decimal, currency: str) -> str:
    return formats.money(round_amount(amount, digits_of(currency)), currency)


def _days(visit: Visit, found: Figures) -> list[Value]:
    amounts: dict[dt.date, Decimal] = defaultdict(Decimal)
    for amount in found.of(visit.currency):
        amounts[amount.day] = EXACT.add(amounts[amount.day], amount.amount)
    days = [visit.today - dt.timedelta(days=back) for back in reversed(range(_DAYS_SHOWN))]
    records_url = reverse("admin:usage_usagerecord_changelist")
    return [
        Value(
            f"{day}",
            amounts[day],
            formats.exact_money(amounts[day], visit.currency),
            "today" * (day == visit.today),
            f"{records_url}?since={day}&until={day}" if visit.may_see("usagerecord") else "",
        )
        for day in days
        # The bills of earlier months are not read, so their days would look empty.
        if day >= visit.last_month
    ]


def _services(visit: Visit, found: Figures) -> list[dict[str, Any]]:
    """Return the services with the largest amounts this month, and all others as one row."""
    by_service: dict[str, list[Amount]] = defaultdict(list)
    for amount in found.of(visit.currency):
        by_service[amount.service].append(amount)
    sums = {service: _so_far(visit, amounts) for service, amounts in by_service.items()}
    ordered = sorted(sums, key=lambda service: (-sums[service][0], service))
    rows = [(service, *sums[service]) for service in ordered[:SHOWN]]
    if rest := ordered[SHOWN:]:
        others = [amount for service in rest for amount in by_service[service]]
        rows.append((f"{len(rest)} others", *_so_far(visit, others)))
    charged = sum((amount for _, amount, _ in rows if amount > 0), Decimal(0))
    return [
        {
            "service": service,
            "amount": _money(amount, visit.currency),
            "before": _money(before, visit.currency),
            "change": formats.change(amount, before),
            "share": formats.per_cent(amount, charged),
        }
        for service, amount, before in rows
    ]


def _range(low: Decimal, high: Decimal, currency: str) -> str:
    ends = dict.fromkeys(formats.exact_money(price, currency) for price in (low, high))
    return " to ".join(ends)
