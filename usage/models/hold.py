"""Holds: bills that staff keep from being closed, each for a reason."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from usage.database.constraints import readable
from usage.models.bill import Bill
from usage.validators import ACTOR_LENGTH, REASON_LENGTH


class Hold(models.Model):
    """A bill on hold, which nothing closes until it is released; usage still goes on it.

    A row beside the bill, because the database lets a bill change only once, when it closes.
    """

    bill = models.OneToOneField(Bill, on_delete=models.PROTECT, primary_key=True)
    reason = models.CharField(max_length=REASON_LENGTH)
    by = models.CharField(max_length=ACTOR_LENGTH, help_text="A staff user's name.")
    at = models.DateTimeField()

    class Meta:
        default_permissions = ()  # changing a bill is permission to hold it
        constraints = (
            models.CheckConstraint(
                name="hold_reason_and_name_given",
                condition=~Q(reason="") & ~Q(by=""),
                violation_error_message="A hold has a reason and the name of who set it.",
            ),
            readable("hold_readable", integers=("bill",), instants=("at",), texts=("reason", "by")),
        )

    def __str__(self) -> str:
        return f"hold of bill {self.bill_id}"
