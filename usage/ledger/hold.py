"""Hold a bill, so that nothing closes it, and release it again."""

from __future__ import annotations

from django.db import connection

from usage.database.transactions import database_now, repeatable
from usage.ledger.statements import STATEMENTS
from usage.models import Bill, HistoryEntry, Hold
from usage.models.base import actor_of

# Pages show these too, before they ask.
CLOSED_ALREADY = "The bill is closed already, so it cannot be put on hold."
HELD_ALREADY = "The bill is on hold already."
NOT_HELD = "The bill is not on hold."


class HoldRefused(Exception):
    """The bill is closed, or on hold already, or not on hold; nothing was changed."""


def hold(bill: Bill, *, by: object, reason: str) -> None:
    """Put the bill on hold: every close is refused until it is released. Usage still goes on it.

    `by` is the member of staff, kept with the reason in the bill's history. Raises HoldRefused if
    the bill is closed or on hold, or without a reason, and DatabaseUnavailable.
    """
    reason = reason.strip()

    def work() -> None:
        # Waits for a close of the bill, and holds off the next, which then sees the hold.
        with connection.cursor() as cursor:
            sql = STATEMENTS[connection.vendor](cursor)
            sql.take_close_lock([bill.customer_id], exclusive=True)
        now = database_now()
        bill.refresh_from_db()
        if bill.is_closed:
            raise HoldRefused(CLOSED_ALREADY)
        if not reason:
            raise HoldRefused("Give a reason for the hold.")
        _, is_new = Hold.objects.get_or_create(
            bill=bill, defaults={"reason": reason, "by": actor_of(by), "at": now}
        )
        if not is_new:
            raise HoldRefused(HELD_ALREADY)
        HistoryEntry.objects.keep(
            HistoryEntry.Action.HELD, bill_id=bill.pk, by=by, at=now, reason=reason
        )

    repeatable(work)


def release(bill: Bill, *, by: object, reason: str = "") -> None:
    """Let the bill be closed again. Raises HoldRefused if it is not on hold."""

    def work() -> None:
        deleted, _ = Hold.objects.filter(bill=bill).delete()
        if not deleted:
            raise HoldRefused(NOT_HELD)
        HistoryEntry.objects.keep(
            HistoryEntry.Action.RELEASED, bill_id=bill.pk, by=by, at=database_now(), reason=reason
        )

    repeatable(work)
