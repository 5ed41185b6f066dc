"""Void a record: cancel it by a record with negative units, once."""

from __future__ import annotations

from usage.database.transactions import repeatable
from usage.ledger.facts import DailyUsageOverflow, Fact, Outcome, Recorded, Voiding
from usage.ledger.record import NO_ROOM, Request, transact
from usage.models import HistoryEntry, UsageRecord
from usage.models.base import actor_of
from usage.models.usage_record import VOID_PREFIX
from usage.validators import ACTOR_LENGTH, REASON_LENGTH


class VoidRefused(Exception):
    """A record cannot be voided, or not again; nothing was changed."""


def void(record: UsageRecord, *, reason: str, by: object) -> UsageRecord:
    """Cancel the record by one with negative units, and return that one.

    It goes on the record's own bill while that is open, else on the current bill, and the history
    of both keeps it. `by` is the member of staff. Raises VoidRefused if the record is a void or
    is voided already, or if `reason` or `by` is empty or too long, ActorRefused, and
    DatabaseUnavailable.
    """
    actor = actor_of(by)
    reason = checked_reason(reason, actor)

    def work() -> Outcome:
        outcome = void_in_transaction(record, reason=reason, by=actor)
        if isinstance(outcome, Recorded) and not outcome.replayed:
            for bill_id in sorted({record.bill_id, outcome.record.bill_id}):
                HistoryEntry.objects.keep(
                    HistoryEntry.Action.VOIDED,
                    bill_id=bill_id,
                    by=actor,
                    at=outcome.record.recorded_at,
                    reason=reason,
                    record_id=record.pk,
                )
        return outcome

    outcome = repeatable(work)
    if not isinstance(outcome, Recorded) or outcome.replayed:
        raise VoidRefused(f"{record.pk} is voided already.")
    return UsageRecord.objects.get(pk=VOID_PREFIX + record.pk)


def checked_reason(reason: str, by: str) -> str:
    """Return the reason without surrounding spaces; raises VoidRefused if it or `by` do not fit."""
    reason = reason.strip()
    if not 1 <= len(reason) <= REASON_LENGTH:
        raise VoidRefused(f"Give a reason of 1 to {REASON_LENGTH} characters for voiding.")
    if not 1 <= len(by) <= ACTOR_LENGTH:
        raise VoidRefused(f"Name who voids the record, in at most {ACTOR_LENGTH} characters.")
    return reason


def void_in_transaction(record: UsageRecord, *, reason: str, by: str) -> Outcome:
    """Record the void in the caller's transaction.

    Raises VoidRefused if the record is a void, or if daily usage has no room for it.
    """
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
    voiding = Voiding(record.pk, record.bill_id, reason, by)
    try:
        (outcome,) = transact([Request([fact], None, voiding)])
    except DailyUsageOverflow as error:
        raise VoidRefused(NO_ROOM.detail) from error
    return outcome
