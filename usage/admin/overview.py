"""What needs attention, read by indexes and a bounded number of rows at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from usage.admin import formats, traffic
from usage.admin.bill_page import period_of
from usage.admin.records import rows_of, url_of
from usage.models import Bill, HistoryEntry, UsageRecord
from usage.models.bill import total_of
from usage.transactions import database_now

_SHOWN = 10
# Beyond this a number says "more than": counting all bills would take ever longer.
MOST_COUNTED = 1000


class BillRow(NamedTuple):
    """A bill as the overview shows it."""

    url: str
    customer: SafeString
    period: str
    total: str


class Done(NamedTuple):
    """What somebody did lately."""

    at: SafeString
    actor: SafeString
    did: str
    url: str
    what: str


def overview(request: HttpRequest) -> dict[str, Any]:
    """Return what the user may see of what needs attention."""
    return {**_bills(request), **_records(request), **traffic.overview(request)}


def _bills(request: HttpRequest) -> dict[str, Any]:
    if not request.user.has_perm("usage.view_bill"):
        return {}
    due = Bill.objects.due(database_now())
    return {
        "open_bills": _counted(Bill.objects.open()),
        "overdue_bills": _counted(due),
        "overdue": _rows(due.order_by("month", "customer_id")),
        "done": _done(),
        "bills_url": reverse("admin:usage_bill_changelist"),
    }


def _counted(bills: QuerySet[Any]) -> str:
    number = bills.order_by()[: MOST_COUNTED + 1].count()
    return formats.number(number) if number <= MOST_COUNTED else f"> {MOST_COUNTED:,}"


def _rows(queryset: QuerySet[Any]) -> list[BillRow]:
    bills = list(queryset.select_related("customer")[:_SHOWN])
    lines = Bill.objects.filter(pk__in=[bill.pk for bill in bills]).lines()
    return [
        BillRow(
            reverse("admin:usage_bill_change", args=[bill.pk]),
            formats.customer(bill.customer),
            period_of(bill),
            formats.money(total_of(lines.get(bill.pk, [])), bill.currency),
        )
        for bill in bills
    ]


def _done() -> list[Done]:
    return [
        Done(
            formats.moment(entry.at),
            formats.name(entry.actor),
            entry.get_action_display(),
            url_of(entry.record_id)
            if entry.record_id
            else reverse("admin:usage_bill_change", args=[entry.bill_id]),
            entry.record_id or f"bill {entry.bill_id}",
        )
        for entry in HistoryEntry.objects.order_by("-id")[:_SHOWN]
    ]


def _records(request: HttpRequest) -> dict[str, Any]:
    if not request.user.has_perm("usage.view_usagerecord"):
        return {}
    newest = UsageRecord.objects.select_related("customer", "bill", "reported_by").order_by(
        "-recorded_at", "request_id"
    )
    return {
        "late_records": rows_of(newest.filter(late=True)[:_SHOWN]),
        "late_url": reverse("admin:usage_usagerecord_changelist", query={"late": 1}),
    }
