"""How bills, usage records and history entries read in a table."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from decimal import Decimal
from typing import Any

from django.contrib.admin.utils import quote
from django.db.models import Exists, OuterRef, QuerySet, Value
from django.db.models.functions import Concat
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from usage.admin import formats
from usage.models import Bill, DailyUsage, HistoryEntry, UsageRecord
from usage.models.usage_record import VOID_PREFIX
from usage.periods import day_of, midnight, month_bounds

# How two request_ids are written in an address. The admin writes "_" as "_5F", so no other is.
DOTS = {".": "_2E", "..": "_2E_2E"}


def bill_cells(bills: Collection[Bill], now: dt.datetime) -> list[dict[str, Any]]:
    """Return the cells of these bills in their order; one query reads the totals of all."""
    totals = DailyUsage.objects.totals_of(bills)
    return [cells_of_bill(bill, totals[bill.pk], now) for bill in bills]


def cells_of_bill(bill: Bill, total: Decimal, now: dt.datetime) -> dict[str, Any]:
    """Return the cells of a bill with this total; `amount` is the total as a number."""
    return {
        "url": bill_url(bill.pk),
        "customer": formats.customer(bill.customer),
        "period": period_of(bill),
        "state": state_of(bill, now),
        "amount": total,
        "total": formats.money(total, bill.currency),
    }


def bill_url(bill_id: int) -> str:
    """Return the address of a bill's page."""
    return reverse("admin:usage_bill_change", args=[bill_id])


def period_of(bill: Bill) -> str:
    """Return a bill's month; its days if it is only a part of one."""
    if (bill.period_start, bill.period_end) == month_bounds(bill.month):
        return f"{bill.month:%B %Y}"
    return dates_of(bill)


def dates_of(bill: Bill) -> str:
    """Return the first and the last day of a bill's period; with the time if not at midnight."""
    start = _time_within_day(bill.period_start) or day_of(bill.period_start)
    last = day_of(bill.period_end - dt.timedelta(milliseconds=1))
    end = _time_within_day(bill.period_end) or last
    return f"{start} to {end}"


def _time_within_day(instant: dt.datetime) -> str:
    if instant == midnight(day_of(instant)):
        return ""
    return f"{timezone.localtime(instant):%Y-%m-%d %H:%M:%S}"


def state_of(bill: Bill, now: dt.datetime) -> SafeString:
    """Return a badge: open, due to close, on hold or closed. The bill was read with its hold."""
    if bill.is_closed:
        return formats.badge("closed", "quiet")
    if hasattr(bill, "hold"):
        return formats.badge("on hold", "bad")
    if bill.is_due(now):
        return formats.badge("due to close", "warning")
    return formats.badge("open", "good")


def with_cells(records: QuerySet[Any, Any]) -> QuerySet[Any, Any]:
    """Read with each record what its cells show; `is_voided` tells whether a void cancels it."""
    void = UsageRecord.objects.filter(pk=Concat(Value(VOID_PREFIX), OuterRef("pk")))
    shown: QuerySet[Any, Any] = records.annotate(is_voided=Exists(void))
    return shown.select_related("customer", "bill", "reported_by")


def record_cells(record: Any, *, timespec: str = "minutes") -> dict[str, Any]:
    """Return the cells of a record that was read `with_cells`; `marks` are badges."""
    if record.reported_by:
        reported_by = formats.api_key(record.reported_by)
    else:
        reported_by = formats.name(record.voided_by or "–")
    marks = [
        ("late", "warning", record.late),
        ("void", "bad", record.voids_id is not None),
        ("voided", "bad", record.is_voided),
    ]
    return {
        "url": record_url(record.pk),
        "request_id": record.pk,
        "customer": formats.customer(record.customer),
        "service": formats.name(record.service),
        "units": formats.number(record.units),
        "price": formats.exact_money(record.price_per_unit, record.bill.currency),
        "amount": formats.exact_money(record.amount, record.bill.currency),
        "recorded_at": formats.moment(record.recorded_at, timespec=timespec),
        "occurred_at": formats.moment(record.occurred_at, timespec=timespec),
        "reported_by": reported_by,
        "marks": [formats.badge(text, kind) for text, kind, applies in marks if applies],
    }


def record_url(request_id: str, act: str = "change") -> str:
    """Return the address of a record's page, or of an act on it."""
    # Browsers take "." and ".." out of an address.
    quoted = DOTS.get(request_id) or quote(request_id)
    return reverse(f"admin:usage_usagerecord_{act}", args=[quoted])


def history_cells(entry: HistoryEntry) -> dict[str, Any]:
    """Return the cells of an act on a bill; `record` is the record voided, if one was."""
    return {
        "at": formats.moment(entry.at),
        "actor": formats.name(entry.actor),
        "did": entry.get_action_display(),
        "detail": entry.detail,
        "reason": entry.reason,
        "bill_url": bill_url(entry.bill_id),
        "bill": entry.bill_id,
        "record_url": record_url(entry.record_id) if entry.record_id else "",
        "record": entry.record_id,
    }
