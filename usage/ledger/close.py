"""Close a bill for ever: one transaction, under the close lock, that fixes its total."""

from __future__ import annotations

import time
from collections.abc import Collection
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.db import connection, models
from django.db.models import Exists, OuterRef, Subquery
from django.db.models.expressions import RawSQL

from usage.attention.bills import examine
from usage.attention.findings import Examined, Kind
from usage.database.transactions import NOW, confirm_on_standby, instant, repeatable
from usage.ledger.statements import STATEMENTS
from usage.metrics import instruments
from usage.models import Bill, BillingTimeZone, DailyUsage, HistoryEntry
from usage.models.time_zone import confirm_zone
from usage.money import EXACT, plain


class CloseRefused(Exception):
    """The bill cannot be closed now; nothing was changed."""


class BillNotBegun(CloseRefused):
    """The bill's period has not begun, so it cannot be closed; nothing was changed."""


class BillOnHold(CloseRefused):
    """The bill is on hold, so it cannot be closed; nothing was changed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The bill is on hold: release it before you close it. Reason: {reason}")


class BillChanged(CloseRefused):
    """The bill is not as it was shown before closing; nothing was changed."""


def close(
    bill: Bill,
    *,
    by: object,
    reason: str = "",
    expected_total: Decimal | None = None,
    expected_flags: Collection[str] = (),
    began: float | None = None,
) -> bool:
    """Close the bill: fix its total, and end its period now if it has not ended.

    `by` is the member of staff or the command that closes it, kept in the bill's history.
    A caller that showed the bill before gives the total and the flags (`Examined.flags`) that it
    showed. The seconds for the transaction count from `began` on the monotonic clock.
    Returns False, and changes nothing, if the bill was closed already. `bill` is read again
    either way. Raises CloseRefused, ActorRefused, DatabaseUnavailable, and ValidationError if `by`
    is empty or the reason is too long.
    """
    shown = None if expected_total is None else (expected_total, expected_flags)
    return repeatable(lambda: _close(bill, by=by, reason=reason, shown=shown), began=began)


def _close(
    bill: Bill, *, by: object, reason: str, shown: tuple[Decimal, Collection[str]] | None
) -> bool:
    # Waits for every transaction that records usage of this customer, and holds off new ones.
    with connection.cursor() as cursor:
        sql = STATEMENTS[connection.vendor](cursor)
        asked = time.perf_counter()
        sql.take_close_lock([bill.customer_id], exclusive=True)
        if instruments is not None:
            instruments.close_lock_seconds.labels("close").observe(time.perf_counter() - asked)
    # New statements: they see the rows of the transactions that the lock waited for.
    clock = RawSQL(NOW[connection.vendor], (), models.DateTimeField())  # noqa: S611 - our own text
    zones = BillingTimeZone.objects.values("name")
    unreadable = DailyUsage.objects.filter(bill=OuterRef("pk")).unreadable()
    clock_time, zone, held, is_unreadable = (
        Bill._base_manager.filter(pk=bill.pk)
        .values_list(clock, Subquery(zones), "hold__reason", Exists(unreadable))
        .get()
    )
    now = instant(clock_time)
    confirm_zone(zone)
    # The customer too, whose name the bill keeps.
    bill.refresh_from_db(from_queryset=Bill._base_manager.select_related("customer"))
    if bill.is_closed:
        confirm_on_standby()
        return False
    if now <= bill.period_start:
        raise BillNotBegun(
            f"The bill's period begins at {bill.period_start:%Y-%m-%d %H:%M:%S} UTC:"
            " close it after that."
        )
    if held is not None:
        raise BillOnHold(held)
    if is_unreadable:
        raise CloseRefused(
            f"The bill has daily usage that cannot be read: run manage.py verify_bills --bill"
            f" {bill.pk}, and correct the row that it names."
        )
    if shown is None:
        total, detail = bill.total, ""
    else:
        examined = examine([bill], now)[bill.pk]
        _check_unchanged(bill, examined, shown)
        total = examined.total
        detail = f"Shown at {plain(shown[0])}, closed at {plain(total)} {bill.currency}."
    # Not through `Bill.objects`, whose rows never change: closing is the one change of a bill.
    row = models.QuerySet[Bill](Bill).filter(pk=bill.pk, closed_at__isnull=True)
    closed = {
        "closed_at": now,
        "closed_total": total,
        "closed_name": bill.customer.name,
        "closed_reference": bill.customer.reference,
        "minor_unit_digits": bill.digits,
        "period_end": min(bill.period_end, now),
    }
    try:
        row.update(**closed)
    except ValidationError as error:
        raise CloseRefused(
            f"The total {total:f} exceeds what this database can hold exactly:"
            " move the service to PostgreSQL to close the bill."
        ) from error
    for name, value in closed.items():
        setattr(bill, name, value)
    HistoryEntry.objects.keep(
        HistoryEntry.Action.CLOSED, bill_id=bill.pk, by=by, at=now, reason=reason, detail=detail
    )
    return True


def _check_unchanged(
    bill: Bill, examined: Examined, shown: tuple[Decimal, Collection[str]]
) -> None:
    """Raise BillChanged if staff must look at the bill again.

    Usage still arrives on a bill that is not due, so its total may have moved by 1 %.
    """
    shown_total, shown_flags = shown
    moved = abs(EXACT.subtract(examined.total, shown_total))
    is_due = any(finding.kind is Kind.DUE for finding in examined.findings)
    may_move = Decimal(0) if is_due else abs(shown_total) / 100
    if moved > may_move:
        raise BillChanged(
            f"The total was {plain(shown_total)} {bill.currency}"
            f" and is now {plain(examined.total)}."
        )
    new = [finding for finding in examined.blocking if finding.flag not in shown_flags]
    if new:
        kinds = ", ".join(dict.fromkeys(finding.kind.value.lower() for finding in new))
        raise BillChanged(f"The bill now needs attention: {kinds}.")
