"""Close a bill for ever: one transaction, under the close lock, that fixes its total."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import connection, models

from usage.database.transactions import database_now, repeatable
from usage.ledger.statements import STATEMENTS
from usage.models import Bill, HistoryEntry


class BillNotBegun(Exception):
    """The bill's period has not begun, so it cannot be closed; nothing was changed."""


class BillTotalTooLarge(Exception):
    """The total exceeds the exact range of the database; the bill stays open."""


def close(bill: Bill, *, by: object, reason: str = "") -> bool:
    """Close the bill: fix its total, and end its period now if it has not ended.

    `by` is the member of staff or the command that closes it, kept in the bill's history.
    Returns False, and changes nothing, if the bill was closed already. `bill` is read again
    either way. Raises BillNotBegun, BillTotalTooLarge, DatabaseUnavailable, and ValidationError
    if `by` is empty or the reason is too long.
    """
    return repeatable(lambda: _close(bill, by=by, reason=reason))


def _close(bill: Bill, *, by: object, reason: str) -> bool:
    # Waits for every transaction that records usage of this customer, and holds off new ones.
    with connection.cursor() as cursor:
        sql = STATEMENTS[connection.vendor](cursor)
        sql.take_close_lock([bill.customer_id], exclusive=True)
    now = database_now()
    # A new statement: it sees the records whose transactions the lock waited for.
    bill.refresh_from_db()
    if bill.is_closed:
        return False
    if now <= bill.period_start:
        raise BillNotBegun(
            f"The bill's period begins at {bill.period_start:%Y-%m-%d %H:%M:%S} UTC:"
            " close it after that."
        )
    total = bill.total
    # Not through `Bill.objects`, whose rows never change: closing is the one change of a bill.
    row = models.QuerySet[Bill](Bill).filter(pk=bill.pk, closed_at__isnull=True)
    try:
        row.update(closed_at=now, closed_total=total, period_end=min(bill.period_end, now))
    except ValidationError as error:
        raise BillTotalTooLarge(
            f"The total {total:f} exceeds what this database can hold exactly:"
            " move the service to PostgreSQL to close the bill."
        ) from error
    bill.refresh_from_db()
    HistoryEntry.objects.keep(
        HistoryEntry.Action.CLOSED, bill_id=bill.pk, by=by, at=now, reason=reason
    )
    return True
