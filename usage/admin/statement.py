"""The statement of one bill: the page that is printed for, and sent to, the customer."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from django.conf import settings
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from usage.admin import formats
from usage.admin.pages import AdminPage
from usage.admin.rows import dates_of
from usage.models import Bill, Line, UsageRecord
from usage.money import exact_sum, round_amount
from usage.periods import LONGEST_LATENESS, day_of

# A bill of more lines shows one for each service, so that the page stays below 500 kB.
LINES_SHOWN = 500
VOIDS_SHOWN = 100


class StatementLine(NamedTuple):
    """A line as the statement shows it, or all lines of a service, at several prices."""

    service: str
    price: str
    units: str
    amount: str


class Statement(AdminPage):
    """Shows the statement; a draft as long as the bill is open."""

    def get(self, request: HttpRequest, object_id: str) -> HttpResponse:
        bill: Bill = self.model_admin.row(request, object_id)
        lines, voids = bill.lines(), _voids(bill)
        total = bill.total if bill.is_closed else bill.total_of(lines)
        return self.model_admin.page(
            request,
            "usage/admin/statement.html",
            bill,
            title=f"Statement {statement_number(bill)}",
            row_url=self.model_admin.url_back(request, bill),
            row_name=self.model_admin.row_name(bill),
            seller=settings.SELLER,
            number=statement_number(bill),
            name=formats.name(bill.customer_name),
            reference=bill.customer_reference,
            period=dates_of(bill),
            issued=f"{day_of(bill.closed_at):%Y-%m-%d}" if bill.closed_at else None,
            lines=_rows(bill, lines),
            grouped=len(lines) if len(lines) > LINES_SHOWN else 0,
            csv_name=f"bill-{bill.pk}-{bill.month:%Y-%m}-lines.csv",
            csv_url=reverse("admin:usage_bill_lines", args=[bill.pk]),
            voids=voids[:VOIDS_SHOWN],
            more_voids=len(voids) > VOIDS_SHOWN,
            total=formats.money(total, bill.currency),
        )


def statement_number(bill: Bill) -> str:
    """Return the number of a bill's statement: its month and id, such as 2026-11-4711."""
    return f"{bill.month:%Y-%m}-{bill.pk}"


def _rows(bill: Bill, lines: list[Line]) -> list[StatementLine]:
    """Return a row for each line; if they are too many, for each service.

    If the services are too many, the smallest share the last row.
    """
    if len(lines) <= LINES_SHOWN:
        return [_row(bill, line.service, [line]) for line in lines]
    by_service: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_service[line.service].append(line)
    services = sorted(
        by_service, key=lambda name: abs(bill.total_of(by_service[name])), reverse=True
    )
    shown, others = services[: LINES_SHOWN - 1], services[LINES_SHOWN - 1 :]
    rows = [_row(bill, service, by_service[service]) for service in sorted(shown)]
    if len(others) == 1:
        rows.append(_row(bill, others[0], by_service[others[0]]))
    elif others:
        rest = [line for service in others for line in by_service[service]]
        amount = formats.money(bill.total_of(rest), bill.currency)
        rows.append(StatementLine(f"{len(others)} other services", "", "", amount))
    return rows


def _row(bill: Bill, service: str, lines: list[Line]) -> StatementLine:
    prices = {line.price_per_unit for line in lines}
    price = formats.exact_money(prices.pop(), bill.currency) if len(prices) == 1 else "several"
    units = formats.number(exact_sum(line.units for line in lines))
    return StatementLine(service, price, units, formats.money(bill.total_of(lines), bill.currency))


def _voids(bill: Bill) -> list[dict[str, str]]:
    """Return the bill's voids, oldest first, and one more than are shown if there are more.

    Their amounts are in the bill's lines already. The index of voids by time finds them, whatever
    the number of records: the sum hides the bill's own index, by which a database that keeps no
    statistics would read all its records.
    """
    voids = UsageRecord.objects.alias(of_bill=F("bill_id") + 0).filter(
        of_bill=bill.pk,
        voids__isnull=False,
        recorded_at__gte=bill.period_start - LONGEST_LATENESS,
    )
    if bill.closed_at:
        voids = voids.filter(recorded_at__lte=bill.closed_at)
    return [
        {
            "request_id": str(void.voids_id),
            "service": void.service,
            "day": f"{day_of(void.occurred_at):%Y-%m-%d}",
            "units": formats.number(void.units),
            "price": formats.exact_money(void.price_per_unit, bill.currency),
            "amount": formats.money(round_amount(void.amount, bill.digits), bill.currency),
        }
        for void in voids.order_by("recorded_at", "request_id")[: VOIDS_SHOWN + 1]
    ]
