"""Void a record: cancel it by a record with negative units, once."""

from __future__ import annotations

import time

from usage.database.transactions import repeatable
from usage.ledger.facts import Fact, Outcome, Recorded, Refused
from usage.ledger.record import Call, attempt
from usage.ledger.statements import FoldOverflow, Void
from usage.models import HistoryEntry, UsageRecord
from usage.models.usage_record import ACTOR_LENGTH, REASON_LENGTH, VOID_PREFIX


class VoidRefused(Exception):
    """A record cannot be voided, or not again; nothing was changed."""


def void(record: UsageRecord, *, reason: str, by: object) -> UsageRecord:
    """Cancel the record by one with negative units, and return that one.

    It goes on the record's own bill while that is open, else on the current bill, and the history
    of both keeps it. `by` is the member of staff. Raises VoidRefused if the record is a void or
    is voided already, or if `reason` or `by` is empty or too long, and DatabaseUnavailable.
    """
    reason, actor = reason.strip(), str(by)
    if not 1 <= len(reason) <= REASON_LENGTH:
        raise VoidRefused(f"Give a reason of 1 to {REASON_LENGTH} characters for voiding.")
    if not 1 <= len(actor) <= ACTOR_LENGTH:
        raise VoidRefused(f"Name who voids the record, in at most {ACTOR_LENGTH} characters.")
    if record.voids_id is not None:
        raise VoidRefused("A void cannot be voided: report the usage again under a new id.")
    fact = Fact(
        VOID_PREFIX + record.pk,
        record.customer_id,
        record.service,
        -record.units,
        record.price_per_unit,
        record.occurred_at,
    )
    call = Call([fact], None, Void(record.pk, reason, actor), record.bill_id)
    began = time.monotonic()
    try:
        outcome = repeatable(lambda: _void(call, mind_room=False), began=began)
    except FoldOverflow:
        outcome = repeatable(lambda: _void(call, mind_room=True), began=began)
    match outcome:
        case Recorded(replayed=False):
            return UsageRecord.objects.get(pk=fact.request_id)
        case Refused(detail=detail):
            raise VoidRefused(detail)
    raise VoidRefused(f"{record.pk} is voided already.")


def _void(call: Call, *, mind_room: bool) -> Outcome:
    """Record the void, and keep it in the history of the record's bill and of its own."""
    (outcome,) = attempt([call], mind_room=mind_room)
    if isinstance(outcome, Recorded) and not outcome.replayed and call.own_bill_id is not None:
        for bill_id in sorted({call.own_bill_id, outcome.record.bill_id}):
            HistoryEntry.objects.keep(
                HistoryEntry.Action.VOIDED,
                bill_id=bill_id,
                by=call.void.voided_by,
                at=outcome.record.recorded_at,
                reason=call.void.reason,
                record_id=call.void.voids_id,
            )
    return outcome
