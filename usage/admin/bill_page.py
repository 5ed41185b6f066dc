"""The page of one bill, read from daily usage: the same work at any number of records."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from django.urls import reverse

from usage.admin import formats
from usage.admin.attention import finding_cells
from usage.admin.charts import Chart, Value, bar_chart
from usage.admin.paging import bytes_of
from usage.admin.rows import (
    bill_url,
    dates_of,
    history_cells,
    period_of,
    record_cells,
    state_of,
    with_cells,
)
from usage.attention.bills import examine
from usage.database.sums import ExactSum
from usage.database.transactions import database_now
from usage.models import AcceptedDuplicates, Bill, DailyUsage, Line, UsageRecord
from usage.money import EXACT, exact_amount, exact_sum, plain, round_amount
from usage.periods import day_of, previous_month

LATEST_RECORDS = 10
# Smaller lines are shown as one until all are asked for, so that the page stays below 60 kB.
LINES_SHOWN = 40
LINES_BYTES = 12_000
# As many as a page shows when all are requested; the CSV has all.
MOST_LINES = 500
HISTORY_SHOWN = 20
ACCEPTED_SHOWN = 20


class BillPage:
    """One bill, read once. Its history starts at the latest entry, or before a given one."""

    def __init__(
        self,
        bill: Bill,
        *,
        all_lines: bool = False,
        history_before: int | None = None,
        may_see_records: bool = True,
    ) -> None:
        self.bill = bill
        self.may_see_records = may_see_records
        self.all_lines = all_lines
        self.history_before = history_before
        self.currency = bill.currency
        self.now = database_now()
        self.examined = examine([bill], self.now)[bill.pk]
        self.lines, self.total = self.examined.lines, self.examined.total
        self.first_day = day_of(bill.period_start)
        self.last_day = day_of(bill.period_end - dt.timedelta(milliseconds=1))
        # The amount of late usage, which occurred before the period.
        self.early = exact_sum(
            amount for day, amount in self.examined.days.items() if day < self.first_day
        )
        latest = with_cells(UsageRecord.objects.filter(bill=bill))
        self.latest = list(latest.order_by("-recorded_at", "request_id")[:LATEST_RECORDS])

    def context(self) -> dict[str, Any]:
        """Return the values for the template."""
        bill = self.bill
        shown = self.shown_lines()
        return {
            "customer": formats.customer(bill.customer),
            "period": period_of(bill),
            "state": state_of(bill, self.now),
            "dates": dates_of(bill),
            "period_start": formats.moment(bill.period_start),
            "period_end": formats.moment(bill.period_end),
            "closed_at": formats.moment(bill.closed_at) if bill.closed_at else None,
            "newest": formats.moment(self.latest[0].recorded_at) if self.latest else None,
            "lines": self.line_rows(shown),
            "other_lines": self.other_lines(shown),
            "all_lines": self.all_lines,
            "most_lines": MOST_LINES,
            "sums": self.sums(),
            "projection": self.projection(),
            "days_left": self.days_left(),
            "record_count": formats.number(sum(line.records for line in self.lines)),
            "chart_caption": f"Exact amount per day on which usage occurred, in {self.currency}"
            + (", today hatched" if self.days_left() else ""),
            "chart": self.chart(),
            "latest": [record_cells(record) for record in self.latest],
            "records_url": self.records_url(),
            "lines_csv_url": reverse("admin:usage_bill_lines", args=[bill.pk]),
            "records_csv_url": reverse("admin:usage_usagerecord_export", query={"bill": bill.pk}),
            **self.neighbours(),
            **self.attention(),
            **self.history(),
        }

    def attention(self) -> dict[str, Any]:
        """Return the findings about an open bill, its hold, and what staff accepted."""
        bill = self.bill
        accepted = AcceptedDuplicates.objects.filter(customer=bill.customer, lifted_at=None)
        return {
            "findings": [finding_cells(finding, bill) for finding in self.examined.findings],
            "hold": getattr(bill, "hold", None),
            "accepted": [
                (
                    formats.name(row.service),
                    formats.name(row.by),
                    row.reason,
                    reverse(
                        "admin:usage_bill_lift", args=[bill.pk], query={"service": row.service}
                    ),
                )
                for row in accepted.order_by("service")[:ACCEPTED_SHOWN]
            ],
        }

    def records_url(self, **query: str) -> str:
        query = {"bill": str(self.bill.pk), **query}
        return reverse("admin:usage_usagerecord_changelist", query=query)

    def history(self) -> dict[str, Any]:
        """Return a page of the bill's history, and the address of the entries before it."""
        kept = self.bill.history.order_by("-id")
        if self.history_before is not None:
            kept = kept.filter(pk__lt=self.history_before)
        entries = list(kept[: HISTORY_SHOWN + 1])
        shown = entries[:HISTORY_SHOWN]
        earlier = f"?before={shown[-1].pk}#history" if len(entries) > len(shown) else ""
        return {"history": [history_cells(entry) for entry in shown], "earlier_url": earlier}

    def line_rows(self, shown: list[Line]) -> list[dict[str, Any]]:
        """Return these lines, each with its share of all charges, in per cent.

        `units_before` and `amount_before` are those of last month, "" if it had no such line.
        """
        charged = sum((line.amount for line in self.lines if line.amount > 0), Decimal(0))
        before = self._lines_before()
        rows = []
        for line in shown:
            units_before = before.get((line.service, line.price_per_unit))
            exact = exact_amount(units_before or Decimal(0), line.price_per_unit)
            amount_before = round_amount(exact, self.bill.digits)
            price = plain(line.price_per_unit)
            row = {
                "service": line.service,
                "price": formats.exact_money(line.price_per_unit, self.currency),
                "units": formats.number(line.units),
                "records": formats.number(line.records),
                "amount": formats.money(line.amount, self.currency),
                "share": formats.per_cent(line.amount, charged),
                "records_url": self.records_url(service=line.service, price=price),
                "units_before": "",
                "amount_before": "",
                "change": formats.change(line.amount, amount_before),
            }
            if units_before is not None:
                row["units_before"] = formats.number(units_before)
                row["amount_before"] = formats.money(amount_before, self.currency)
            rows.append(row)
        return rows

    def _lines_before(self) -> dict[tuple[str, Decimal], Decimal]:
        """Return the units of the customer's lines of last month by service and price."""
        rows = DailyUsage.objects.filter(
            bill__customer=self.bill.customer_id, bill__month=previous_month(self.bill.month)
        ).values_list("service", "price_per_unit")
        return {
            (service, price): units
            for service, price, units in rows.annotate(total=ExactSum("units")).order_by()
        }

    def shown_lines(self) -> list[Line]:
        """Return the largest lines, in their order, or all of them."""
        ordered = sorted(self.lines, key=lambda line: abs(line.amount), reverse=True)
        if self.all_lines:
            most = set(ordered[:MOST_LINES])
            return [line for line in self.lines if line in most]
        largest, room = set(ordered[:1]), LINES_BYTES
        for line in ordered[:LINES_SHOWN]:
            # The page has the service twice: as text, and in the link to the line's records.
            room -= bytes_of(line.service) + len(quote(line.service))
            if room >= 0:
                largest.add(line)
        return [line for line in self.lines if line in largest]

    def other_lines(self, shown: list[Line]) -> dict[str, str] | None:
        """Return the sums of the lines that are not shown, if there are any."""
        others = set(self.lines) - set(shown)
        if not others:
            return None
        return {
            "number": formats.number(len(others)),
            "records": formats.number(sum(line.records for line in others)),
            "amount": formats.money(self.bill.total_of(others), self.currency),
        }

    def sums(self) -> dict[str, str]:
        """Return the sums below the lines: exact + rounding = total."""
        exact = exact_sum(line.exact_amount for line in self.lines)
        rounding = EXACT.subtract(self.total, exact)
        return {
            "exact": formats.exact_money(exact, self.currency),
            "rounding": formats.exact_money(rounding, self.currency),
            "total": formats.money(self.total, self.currency),
        }

    def projection(self) -> str:
        """Return the total at the end if usage goes on as before; "" on the first day.

        Usage of days before the period happened once and does not go on.
        """
        start, end = self.bill.period_start, self.bill.period_end
        elapsed = self.now - start
        if self.bill.is_closed or self.now >= end or elapsed < dt.timedelta(days=1):
            return ""
        days = Decimal((end - start) // dt.timedelta(seconds=1))
        share = days / Decimal(elapsed // dt.timedelta(seconds=1))
        goes_on = EXACT.multiply(EXACT.subtract(self.total, self.early), share)
        rounded = round_amount(EXACT.add(self.early, goes_on), self.bill.digits)
        return formats.money(rounded, self.currency)

    def days_left(self) -> int | None:
        """Return how many days of the period are left, today included; None once it is over."""
        if self.bill.is_closed or self.now >= self.bill.period_end:
            return None
        return (self.last_day - day_of(max(self.now, self.bill.period_start))).days + 1

    def chart(self) -> Chart:
        """Return the exact amount of each day; one bar has all days before the period."""
        amounts = self.examined.days
        values = []
        if self.early:
            before = self.first_day - dt.timedelta(days=1)
            values.append(self._value("earlier", self.early, "days before", until=f"{before}"))
        day, today = self.first_day, day_of(self.now)
        while day <= self.last_day:
            amount, mark = amounts.get(day, Decimal(0)), "today" * (day == today)
            values.append(self._value(f"{day}", amount, mark, since=f"{day}", until=f"{day}"))
            day += dt.timedelta(days=1)
        return bar_chart(values)

    def _value(self, label: str, amount: Decimal, mark: str, **days: str) -> Value:
        url = self.records_url(**days) if amount and self.may_see_records else ""
        return Value(label, amount, formats.exact_money(amount, self.currency), mark, url)

    def neighbours(self) -> dict[str, Any]:
        """Return the customer's bills before and after, and how this one's total compares."""
        bills = Bill.objects.filter(customer=self.bill.customer_id)
        start = self.bill.period_start
        found = {
            "before": bills.filter(period_start__lt=start).order_by("-period_start").first(),
            "after": bills.filter(period_start__gt=start).order_by("period_start").first(),
        }
        totals = DailyUsage.objects.totals_of(bill for bill in found.values() if bill)
        return {
            name: {
                "url": bill_url(bill.pk),
                "period": period_of(bill),
                "total": formats.money(totals[bill.pk], self.currency),
                "change": formats.change(self.total, totals[bill.pk]),
            }
            for name, bill in found.items()
            if bill
        }
