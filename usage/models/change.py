"""Changes of customers and API keys: who, when, the old and the new value; only added to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from django.db import models
from django.db.models import Q, lookups
from django.db.models.functions import Length

from usage.database.constraints import readable
from usage.database.transactions import database_now
from usage.models.base import FrozenModel, FrozenQuerySet, actor_of
from usage.validators import ACTOR_LENGTH, REASON_LENGTH

if TYPE_CHECKING:
    from usage.models.api_key import ApiKey
    from usage.models.customer import Customer

VALUE_LENGTH = 200


class NewValue(NamedTuple):
    """One field of a row that was changed, with its value before and after."""

    field: str
    old: str
    new: str


class ChangeQuerySet(FrozenQuerySet["Change"]):
    """Entries that can be read and added."""

    def keep(
        self,
        row: Customer | ApiKey,
        action: Change.Action,
        *,
        by: object,
        values: Iterable[NewValue] = (),
        reason: str = "",
    ) -> None:
        """Add that `by`, a staff user or a command, did something to a customer or an API key.

        One entry is added for each of the changed `values`, or one if there are none. It belongs
        in the transaction that makes the change. Raises ValidationError if `by` is empty or a
        text is too long.
        """
        self.keep_all([(row, action, values)], by=by, reason=reason)

    def keep_all(
        self,
        done: Iterable[tuple[Customer | ApiKey, Change.Action, Iterable[NewValue]]],
        *,
        by: object,
        reason: str = "",
    ) -> None:
        """Add the changes of many rows at once, as `keep` does for one."""
        at = database_now()
        entries = [
            self.model(
                **{row.named_in_history: row},
                action=action,
                actor=actor_of(by),
                reason=reason.strip(),
                at=at,
                field=value.field,
                old=value.old,
                new=value.new,
            )
            for row, action, values in done
            for value in (tuple(values) or (NewValue("", "", ""),))
        ]
        for entry in entries:
            entry.clean_fields(exclude={"customer", "api_key"})
        self.bulk_create(entries)


class Change(FrozenModel):
    """One change of a customer or an API key. It outlives the account of who made it."""

    class Action(models.TextChoices):
        ADDED = "added", "added"
        CHANGED = "changed", "changed"
        ISSUED = "issued", "issued the key"
        REVOKED = "revoked", "revoked the key"

    customer = models.ForeignKey(
        "Customer", null=True, on_delete=models.PROTECT, db_index=False, related_name="changes"
    )
    api_key = models.ForeignKey(
        "ApiKey", null=True, on_delete=models.PROTECT, db_index=False, related_name="changes"
    )
    action = models.CharField(max_length=10, choices=Action)
    field = models.CharField(max_length=20, blank=True)
    old = models.CharField(max_length=VALUE_LENGTH, blank=True)
    new = models.CharField(max_length=VALUE_LENGTH, blank=True)
    actor = models.CharField(max_length=ACTOR_LENGTH, help_text="A staff user or a command.")
    reason = models.CharField(max_length=REASON_LENGTH, blank=True)
    at = models.DateTimeField()

    objects = models.Manager.from_queryset(ChangeQuerySet)()

    class Meta:
        ordering = ("-id",)
        default_permissions = ()
        indexes = (
            models.Index(name="change_by_customer", fields=("customer", "-id")),
            models.Index(name="change_by_api_key", fields=("api_key", "-id")),
        )
        constraints = (
            models.CheckConstraint(
                name="change_of_one_row",
                condition=Q(customer__isnull=False, api_key__isnull=True)
                | Q(customer__isnull=True, api_key__isnull=False),
                violation_error_message="A change is of a customer or of an API key.",
            ),
            models.CheckConstraint(
                name="change_action_known",
                condition=Q(action__in=("added", "changed", "issued", "revoked")),
            ),
            models.CheckConstraint(
                name="change_actor_given",
                condition=~Q(actor="") & Q(lookups.LessThanOrEqual(Length("actor"), ACTOR_LENGTH)),
                violation_error_message="The history names who made the change.",
            ),
            readable(
                "change_readable",
                integers=("customer", "api_key"),
                texts=("action", "field", "old", "new", "actor", "reason"),
                instants=("at",),
            ),
        )

    def __str__(self) -> str:
        return f"{self.actor} {self.get_action_display()} {self.field}".strip()
