"""What `manage.py check_usage` found in the records, and what staff accepted of it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from usage.database.constraints import readable
from usage.database.fields import ExactDecimalField
from usage.models.bill import Bill
from usage.models.customer import Customer
from usage.validators import ACTOR_LENGTH, PRICE_DIGITS, REASON_LENGTH, SERVICE_LENGTH


class PossibleDuplicates(models.Model):
    """Records of one bill, service and price that repeat others under different request_ids.

    Kept by the last check of the bill. `records` and `amount` are those of the repetitions, without
    the first record of each fact; the amount is rounded like a line. `pairs` has up to five pairs:
    the request_id of a repetition and that of the first record.
    """

    bill = models.ForeignKey(Bill, on_delete=models.CASCADE, related_name="possible_duplicates")
    service = models.CharField(max_length=SERVICE_LENGTH)
    price_per_unit = ExactDecimalField(**PRICE_DIGITS)
    records = models.BigIntegerField()
    amount = ExactDecimalField(max_digits=30, decimal_places=4)
    since = models.DateTimeField(help_text="When the first repetition was recorded.")
    pairs = models.JSONField()

    class Meta:
        default_permissions = ()
        constraints = (
            models.UniqueConstraint(
                name="possible_duplicates_once", fields=("bill", "service", "price_per_unit")
            ),
            readable(
                "possible_duplicates_readable",
                instants=("since",),
                numbers=("price_per_unit", "amount"),
                integers=("bill", "records"),
                texts=("service", "pairs"),
            ),
        )

    def __str__(self) -> str:
        return f"{self.records} possible duplicates on bill {self.bill_id}"


class AcceptedDuplicates(models.Model):
    """Staff said that equal facts of this customer and service are right; in force until lifted."""

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="+")
    service = models.CharField(max_length=SERVICE_LENGTH)
    reason = models.CharField(max_length=REASON_LENGTH)
    by = models.CharField(max_length=ACTOR_LENGTH, help_text="A staff user's name.")
    at = models.DateTimeField()
    lifted_by = models.CharField(max_length=ACTOR_LENGTH, blank=True)
    lifted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        default_permissions = ()  # changing usage records is permission to accept duplicates
        constraints = (
            models.UniqueConstraint(
                name="accepted_duplicates_once",
                fields=("customer", "service"),
                condition=Q(lifted_at__isnull=True),
            ),
            models.CheckConstraint(
                name="accepted_duplicates_reason_given",
                condition=~Q(reason="") & ~Q(by=""),
                violation_error_message="Accepting duplicates needs a reason and a name.",
            ),
            readable(
                "accepted_duplicates_readable",
                integers=("customer",),
                instants=("at", "lifted_at"),
                texts=("service", "reason", "by", "lifted_by"),
            ),
        )

    def __str__(self) -> str:
        return f"accepted duplicates of {self.service}"


class UsageCheck(models.Model):
    """A run of `check_usage` that finished, and its findings.

    `flagged` are the ids of the bills with a finding, other than that they are due.
    """

    finished_at = models.DateTimeField()
    bills = models.BigIntegerField()
    blocking = models.BigIntegerField()
    informing = models.BigIntegerField()
    flagged = models.JSONField()

    class Meta:
        default_permissions = ()
        get_latest_by = "finished_at"
        constraints = (
            readable(
                "usage_check_readable",
                instants=("finished_at",),
                integers=("bills", "blocking", "informing"),
            ),
        )

    def __str__(self) -> str:
        return f"check of {self.bills} bills at {self.finished_at:%Y-%m-%d %H:%M}"
