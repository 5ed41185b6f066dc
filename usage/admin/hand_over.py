"""The hand-over of a month's closed bills to finance: a page with control totals, and two files."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from django.db.models import Count, Sum
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.urls import reverse

from usage.admin import formats
from usage.admin.exports import csv_response, text
from usage.admin.pages import AdminPage
from usage.admin.statement import statement_number
from usage.currencies import cldr_digits, digits_of
from usage.database.sums import AmountSum, ExactSum
from usage.models import Bill, DailyUsage, HistoryEntry
from usage.money import EXACT, exact_sum, plain, round_amount

_BILLS_AT_ONCE = 500

CLOSED_COLUMNS = (
    "bill_id",
    "statement_number",
    "customer_id",
    "customer",
    "reference",
    "currency",
    "month",
    "period_start",
    "period_end",
    "closed_at",
    "closed_by",
    "records",
    "total",
    "exact_amount",
    "rounding",
)
CONTROL_COLUMNS = ("currency", "bills", "records", "total", "exact_amount", "rounding")


class Control(NamedTuple):
    """The control totals of a month's closed bills in one currency; exact + rounding = total."""

    currency: str
    bills: int
    records: int
    total: Decimal
    exact_amount: Decimal

    @property
    def rounding(self) -> Decimal:
        return EXACT.subtract(self.total, self.exact_amount)


class _OfMonth(AdminPage):
    """Something about the closed bills of the month in the address, for users who may see bills."""

    month: dt.date

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            self.month = dt.date.fromisoformat(f"{kwargs['month']}-01")
        except ValueError as error:
            raise Http404(f"{kwargs['month']} is not a month. Use YYYY-MM.") from error
        return super().dispatch(request, *args, **kwargs)

    def filename(self, kind: str) -> str:
        return f"bills-{self.month:%Y-%m}-{kind}.csv"


class HandOver(_OfMonth):
    """The page: control totals, how many bills are still open, and the files."""

    def get(self, request: HttpRequest, month: str) -> HttpResponse:
        name = f"{self.month:%Y-%m}"
        bills_url = reverse("admin:usage_bill_changelist")
        return self.model_admin.page(
            request,
            "usage/admin/hand_over.html",
            None,
            title=f"Closed bills of {self.month:%B %Y}",
            month_name=f"{self.month:%B %Y}",
            control=[
                {
                    "currency": control.currency,
                    "bills": formats.number(control.bills),
                    "records": formats.number(control.records),
                    "total": formats.money(control.total, control.currency),
                    "exact_amount": formats.exact_money(control.exact_amount, control.currency),
                    "rounding": formats.exact_money(control.rounding, control.currency),
                }
                for control in control_totals(self.month)
            ],
            open_bills=Bill.objects.open().filter(month=self.month).count(),
            open_url=f"{bills_url}?state=open&month={name}",
            files=[
                (self.filename(kind), reverse(f"admin:usage_bill_month_{kind}", args=[name]))
                for kind in ("closed", "control")
            ],
        )


class ClosedFile(_OfMonth):
    """One row for each closed bill, by id: the same bytes once all of the month are closed."""

    def get(self, request: HttpRequest, month: str) -> HttpResponseBase:
        return csv_response(self.filename("closed"), CLOSED_COLUMNS, _closed_rows(self.month))


class ControlFile(_OfMonth):
    """One row for each currency."""

    def get(self, request: HttpRequest, month: str) -> HttpResponseBase:
        rows = (
            (
                control.currency,
                control.bills,
                control.records,
                f"{control.total:f}",
                plain(control.exact_amount),
                plain(control.rounding),
            )
            for control in control_totals(self.month)
        )
        return csv_response(self.filename("control"), CONTROL_COLUMNS, rows)


def control_totals(month: dt.date) -> list[Control]:
    """Return the control totals of a month's closed bills, by currency."""
    bills = Bill.objects.closed().filter(month=month)
    totals = bills.values_list("currency").annotate(Count("pk"), ExactSum("closed_total"))
    usage = DailyUsage.objects.filter(bill__month=month, bill__closed_at__isnull=False)
    amounts = usage.values_list("bill__currency").annotate(
        number=Sum("records"), amount=AmountSum("units", "price_per_unit")
    )
    of_currency = {currency: (records, amount) for currency, records, amount in amounts.order_by()}
    found = []
    for currency, number, closed_total in totals.order_by("currency"):
        records, exact_amount = of_currency.get(currency, (0, Decimal(0)))
        # The column has more digits. Bills of an older version were rounded to CLDR's.
        digits = max(digits_of(currency), cldr_digits(currency))
        total = round_amount(closed_total, digits)
        found.append(Control(currency, number, records, total, exact_amount))
    return found


def _closed_rows(month: dt.date) -> Iterator[Sequence[Any]]:
    """Yield the rows in order of the bills' ids, reading a bounded number of bills at a time."""
    for bills in Bill.objects.closed().filter(month=month).chunks(_BILLS_AT_ONCE):
        lines = DailyUsage.objects.lines_of(bills)
        closes = HistoryEntry.objects.filter(bill__in=bills, action=HistoryEntry.Action.CLOSED)
        closed_by = dict(closes.order_by().values_list("bill_id", "actor"))
        for bill in bills:
            of_bill = lines.get(bill.pk, [])
            exact = exact_sum(line.exact_amount for line in of_bill)
            yield (
                bill.pk,
                statement_number(bill),
                bill.customer_id,
                text(bill.closed_name),
                text(bill.closed_reference),
                bill.currency,
                f"{bill.month:%Y-%m}",
                bill.period_start.astimezone(dt.UTC).isoformat(timespec="milliseconds"),
                bill.period_end.astimezone(dt.UTC).isoformat(timespec="milliseconds"),
                bill.closed_at.astimezone(dt.UTC).isoformat(timespec="milliseconds"),
                text(closed_by.get(bill.pk, "")),
                sum(line.records for line in of_bill),
                f"{bill.total:f}",
                plain(exact),
                plain(EXACT.subtract(bill.total, exact)),
            )
