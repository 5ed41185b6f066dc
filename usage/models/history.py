"""What staff did to bills: who, when and why; only ever added to."""

from __future__ import annotations

from django.db import models

from usage.models.base import FrozenModel, FrozenQuerySet
from usage.models.bill import Bill
from usage.models.usage_record import REASON_LENGTH, UsageRecord


class HistoryQuerySet(FrozenQuerySet["HistoryEntry"]):
    """Entries that can be read and added."""

    def keep(
        self,
        action: HistoryEntry.Action,
        bill: Bill,
        *,
        by: object,
        reason: str = "",
        record: UsageRecord | None = None,
    ) -> HistoryEntry:
        """Add that the staff user `by` did something to a bill, or to a record on it.

        Raises ValidationError for a reason that is too long, or if nobody is named.
        """
        entry = self.model(
            action=action, bill=bill, record=record, actor=str(by), reason=reason.strip()
        )
        entry.full_clean()
        entry.save()
        return entry


class HistoryEntry(FrozenModel):
    """One thing that somebody did to a bill. It outlives the account of who did it."""

    class Action(models.TextChoices):
        CLOSED = "closed", "closed the bill"
        VOIDED = "voided", "voided a record"
        VERIFIED = "verified", "verified the bill"

    bill = models.ForeignKey(Bill, on_delete=models.PROTECT, related_name="history")
    record = models.ForeignKey(
        UsageRecord,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        db_index=False,
        related_name="+",
    )
    action = models.CharField(max_length=10, choices=Action)
    actor = models.CharField(max_length=150, help_text="A staff user's name.")
    reason = models.CharField(max_length=REASON_LENGTH, blank=True)
    at = models.DateTimeField(auto_now_add=True)

    objects = models.Manager.from_queryset(HistoryQuerySet)()

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "history"

    def __str__(self) -> str:
        return f"{self.actor} {self.get_action_display()}"
