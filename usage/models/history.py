"""The history of bills: who did what, when and why. Entries are only ever added."""

from __future__ import annotations

import datetime as dt

from django.db import models
from django.db.models import Q, lookups
from django.db.models.functions import Length

from usage.database.constraints import readable
from usage.models.base import FrozenModel, FrozenQuerySet, actor_of
from usage.models.bill import Bill
from usage.models.usage_record import UsageRecord
from usage.validators import ACTOR_LENGTH, REASON_LENGTH


class HistoryQuerySet(FrozenQuerySet["HistoryEntry"]):
    """Entries that can be read and added."""

    def keep(
        self,
        action: HistoryEntry.Action,
        *,
        bill_id: int,
        by: object,
        at: dt.datetime,
        reason: str = "",
        detail: str = "",
        record_id: str | None = None,
    ) -> None:
        """Add that the staff user `by` acted on a bill, or on a record of it.

        Call it in the transaction of the act. Raises ValidationError if the reason is too long or
        `by` is empty, and ActorRefused.
        """
        entry = self.model(
            action=action,
            bill_id=bill_id,
            record_id=record_id,
            actor=actor_of(by),
            reason=reason.strip(),
            detail=detail,
            at=at,
        )
        # The database checks the keys and the constraints below: here each would take one more
        # query in a transaction that others wait for.
        entry.clean_fields(exclude={"bill", "record"})
        entry.save()


class HistoryEntry(FrozenModel):
    """One act on a bill. It outlives the account of the person who did it."""

    class Action(models.TextChoices):
        CLOSED = "closed", "closed the bill"
        VOIDED = "voided", "voided a record"
        VERIFIED = "verified", "verified the bill"
        HELD = "held", "put the bill on hold"
        RELEASED = "released", "released the bill"
        BULK_VOIDED = "bulkvoid", "voided records"
        ACCEPTED = "accepted", "accepted possible duplicates"
        LIFTED = "lifted", "no longer accepts possible duplicates"

    bill = models.ForeignKey(Bill, on_delete=models.PROTECT, db_index=False, related_name="history")
    record = models.ForeignKey(
        UsageRecord,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        db_index=False,
        related_name="+",
    )
    action = models.CharField(max_length=10, choices=Action)
    actor = models.CharField(max_length=ACTOR_LENGTH, help_text="A staff user's name.")
    reason = models.CharField(max_length=REASON_LENGTH, blank=True)
    detail = models.CharField(
        max_length=300, blank=True, help_text="Amounts and numbers of the act, for staff to read."
    )
    at = models.DateTimeField()

    objects = models.Manager.from_queryset(HistoryQuerySet)()

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "history"
        indexes = (models.Index(name="history_by_bill", fields=("bill", "-id")),)
        constraints = (
            models.UniqueConstraint(
                name="history_closed_once",
                fields=("bill",),
                condition=Q(action="closed"),
                violation_error_message="A bill is closed once.",
            ),
            models.CheckConstraint(
                name="history_action_known",
                condition=Q(
                    action__in=(
                        *("closed", "voided", "verified", "held", "released"),
                        *("bulkvoid", "accepted", "lifted"),
                    )
                ),
                violation_error_message="The history knows no such action.",
            ),
            models.CheckConstraint(
                name="history_actor_given",
                condition=~Q(actor="") & Q(lookups.LessThanOrEqual(Length("actor"), ACTOR_LENGTH)),
                violation_error_message="The history names who did it.",
            ),
            models.CheckConstraint(
                name="history_reason_fits",
                condition=Q(lookups.LessThanOrEqual(Length("reason"), REASON_LENGTH)),
                violation_error_message=f"A reason has at most {REASON_LENGTH} characters.",
            ),
            models.CheckConstraint(
                name="history_void_with_record_and_reason",
                condition=(Q(action="voided", record__isnull=False) & ~Q(reason=""))
                | (~Q(action="voided") & Q(record__isnull=True)),
                violation_error_message="Only a void names its record, and it has a reason.",
            ),
            models.CheckConstraint(
                name="history_reason_given",
                condition=~Q(action__in=("held", "bulkvoid", "accepted"), reason=""),
                violation_error_message="This action needs a reason.",
            ),
            readable(
                "history_readable",
                integers=("bill",),
                texts=("record", "action", "actor", "reason", "detail"),
                instants=("at",),
            ),
        )

    def __str__(self) -> str:
        return f"{self.actor} {self.get_action_display()}"
