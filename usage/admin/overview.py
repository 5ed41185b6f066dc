"""The overview: the month so far, and what needs attention. One function for each section."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

from django.contrib import admin
from django.db.models import Count, Max, Q, Subquery
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.safestring import SafeString

from usage.admin import formats, traffic
from usage.admin.charts import Value, bar_chart
from usage.admin.figures import SHOWN, Figures, PriceRange, figures
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


class Accrued(NamedTuple):
    """The sum of this month's bills in one currency, and of last month's up to the same day."""

    currency: str
    url: str
    amount: str
    before: str
    change: str
    rounding: str


class ServiceRow(NamedTuple):
    """The amount of one service this month, and last month up to the same day."""

    service: str
    amount: str
    before: str
    change: str
    share: float


class PriceRow(NamedTuple):
    """A customer's service whose unit prices need a look."""

    url: str
    customer: SafeString
    service: str
    prices: str
    before: str


def month_so_far(visit: Visit) -> dict[str, Any]:
    """Return the tiles, the chart and the services in the currency shown."""
    if not visit.may_see("bill"):
        return {}
    if visit.figures is None:
        return {"figures_missing": True}
    found = visit.figures
    accrued = {currency: _accrued(visit, found, currency) for currency in found.currencies}
    return {
        "as_of": formats.moment(found.as_of),
        "month_name": f"{visit.month:%B}",
        "same_day": f"{_same_day(visit):%-d %B}",
        "accrued": accrued.pop(visit.currency, None),
        "other_currencies": list(accrued.values()),
        "chart_caption": f"Usage per day on which it occurred, in {visit.currency}, today hatched",
        "chart": bar_chart(_days(visit, found)),
        "services": _services(visit, found),
    }


def counts(visit: Visit) -> dict[str, Any]:
    """Return how many bills are open, due and, of this month and last, closed."""
    if not visit.may_see("bill"):
        return {}
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
    if not visit.may_see("bill"):
        return {}
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
        "largest": sorted(largest, key=lambda cells: cells.amount, reverse=True),
    }


def prices(visit: Visit) -> dict[str, Any]:
    """Return the services whose unit prices are far apart, or differ from last month's."""
    if not visit.may_see("bill") or visit.figures is None:
        return {}
    found = visit.figures.prices
    return {
        "prices": [_price_row(visit, row) for row in found[:SHOWN]],
        "more_prices": len(found) > SHOWN,
        "last_month_name": f"{visit.last_month:%B}",
    }


def late_usage(visit: Visit) -> dict[str, Any]:
    """Return the latest late usage of this month."""
    if not visit.may_see("usagerecord"):
        return {}
    late = UsageRecord.objects.filter(
        bill__in=Bill.objects.all(), late=True, recorded_at__gte=month_bounds(visit.month).start
    )
    newest = with_cells(late).order_by("-recorded_at", "request_id")
    return {
        "late_records": [record_cells(record) for record in newest[:SHOWN]],
        "late_url": reverse("admin:usage_usagerecord_changelist", query={"late": 1}),
    }


def done(visit: Visit) -> dict[str, Any]:
    """Return the latest acts of staff."""
    if not visit.may_see("bill"):
        return {}
    entries = list(HistoryEntry.objects.order_by("-id")[: 2 * SHOWN])
    # A void on another bill is in the histories of both bills.
    acts = {(entry.action, entry.record_id or entry.pk): entry for entry in reversed(entries)}
    latest = sorted(acts.values(), key=lambda entry: entry.pk, reverse=True)
    return {"done": [history_cells(entry) for entry in latest[:SHOWN]]}


def api_keys(visit: Visit) -> dict[str, Any]:
    """Return the keys with refusals today, and the keys that have not been used for long."""
    return traffic.overview(visit.request)


# In the template each has a block of the same name.
SECTIONS: tuple[Callable[[Visit], dict[str, Any]], ...] = (
    counts,
    month_so_far,
    bills,
    prices,
    late_usage,
    done,
    api_keys,
)


def overview(request: HttpRequest) -> HttpResponse:
    """Show the admin's first page with every section that the user may see."""
    visit = Visit(request)
    shown = {name: value for section in SECTIONS for name, value in section(visit).items()}
    return admin.site.index(request, shown)


def _same_day(visit: Visit) -> dt.date:
    """Return today's day in last month, or that month's last day."""
    last = visit.month - dt.timedelta(days=1)
    return last.replace(day=min(visit.today.day, last.day))


def _so_far(visit: Visit, amounts: Iterable[Amount]) -> tuple[Decimal, Decimal]:
    """Return the sum of this month, and of last month up to the same day."""
    sums = {visit.month: Decimal(0), visit.last_month: Decimal(0)}
    for amount in amounts:
        if amount.month == visit.month or amount.day <= _same_day(visit):
            sums[amount.month] = EXACT.add(sums[amount.month], amount.amount)
    return sums[visit.month], sums[visit.last_month]


def _money(amount: Decimal, currency: str) -> str:
    return formats.money(round_amount(amount, digits_of(currency)), currency)


def _accrued(visit: Visit, found: Figures, currency: str) -> Accrued:
    amount, before = _so_far(visit, found.of(currency))
    return Accrued(
        currency,
        reverse("admin:index", query={"currency": currency}),
        _money(amount, currency),
        _money(before, currency),
        formats.change(amount, before),
        formats.exact_money(EXACT.subtract(found.rounded.get(currency, amount), amount), currency),
    )


def _days(visit: Visit, found: Figures) -> list[Value]:
    amounts: dict[dt.date, Decimal] = defaultdict(Decimal)
    for amount in found.of(visit.currency):
        amounts[amount.day] = EXACT.add(amounts[amount.day], amount.amount)
    days = [visit.today - dt.timedelta(days=back) for back in reversed(range(_DAYS_SHOWN))]
    # The bills of earlier months are not read, so their days would look empty.
    days = [day for day in days if day >= visit.last_month]
    return [
        Value(
            f"{day}",
            amounts[day],
            formats.exact_money(amounts[day], visit.currency),
            "today" * (day == visit.today),
            _day_url(visit, day),
        )
        for day in days
    ]


def _day_url(visit: Visit, day: dt.date) -> str:
    """Return the address of the records of a day, if the user may see records."""
    if not visit.may_see("usagerecord"):
        return ""
    query = {"since": f"{day}", "until": f"{day}"}
    return reverse("admin:usage_usagerecord_changelist", query=query)


def _services(visit: Visit, found: Figures) -> list[ServiceRow]:
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
        ServiceRow(
            service,
            _money(amount, visit.currency),
            _money(before, visit.currency),
            formats.change(amount, before),
            formats.per_cent(amount, charged),
        )
        for service, amount, before in rows
    ]


def _price_row(visit: Visit, row: PriceRange) -> PriceRow:
    query = {"customer": row.customer_id, "service": row.service, "since": f"{visit.last_month}"}
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
