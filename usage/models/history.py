"""What staff did to bills: who, when and why; only ever added to."""

from __future__ import annotations

import datetime as dt

from django.db import models
from django.db.models import Q, lookups
from django.db.models.functions import Length

from usage.models.base import FrozenModel, FrozenQuerySet
from usage.models.bill import Bill
from usage.models.usage_record import ACTOR_LENGTH, REASON_LENGTH, UsageRecord


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
        record_id: str | None = None,
    ) -> HistoryEntry:
        """Add that the staff user `by` did something to a bill, or to a record on it.

        It belongs into the transaction that does it. Raises ValidationError for a reason that is
        too long, or if nobody is named.
        """
        entry = self.model(
            action=action,
            bill_id=bill_id,
            record_id=record_id,
            actor=str(by),
            reason=reason.strip(),
            at=at,
        )
        # The keys' own constraints, and those below, are the database's to check: each would be
        # a query more in a transaction that others wait for.
        entry.clean_fields(exclude={"bill", "record"})
        entry.save()
        return entry


class HistoryEntry(FrozenModel):
    """One thing that somebody did to a bill. It outlives the account of who did it."""

    class Action(models.TextChoices):
        CLOSED = "closed", "closed the bill"
        VOIDED = "voided", "voided a record"
        VERIFIED = "verified", "verified the bill"

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
                condition=Q(action__in=("closed", "voided", "verified")),
                violation_error_message="A bill is closed or verified, or a record of it voided.",
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
        )

    def __str__(self) -> str:
        return f"{self.actor} {self.get_action_display()}"
