"""Usage records: facts that never change, and voids that cancel them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from operator import gt, itemgetter, lt
from typing import Any, Self

from django.db import models
from django.db.models import F, OuterRef, Q, QuerySet, Subquery, Value, lookups
from django.db.models.functions import Concat, Length

from usage.database.constraints import (
    AmountBelowLimit,
    CleanText,
    OccurredInTime,
    PrintableAscii,
    Readable,
    readable,
)
from usage.database.fields import BytewiseCharField, ExactDecimalField
from usage.models.api_key import ApiKey
from usage.models.base import FrozenModel, FrozenQuerySet
from usage.models.bill import Bill
from usage.models.customer import Customer
from usage.money import exact_amount
from usage.validators import (
    ACTOR_LENGTH,
    PRICE_DIGITS,
    REASON_LENGTH,
    REQUEST_ID_LENGTH,
    SERVICE_LENGTH,
    UNITS_DIGITS,
)

# The space keeps a void's id out of reach of the wire.
VOID_PREFIX = "void "


class UsageRecord(FrozenModel):
    """One fact: this customer consumed these units of this service at this price.

    Never changed, never deleted. A void is a record of its own with negative units. The guards
    check that its bill, customer and key exist, once for all the records of a statement.
    """

    request_id = BytewiseCharField(
        primary_key=True, max_length=len(VOID_PREFIX) + REQUEST_ID_LENGTH
    )
    customer = models.ForeignKey(
        Customer, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="+"
    )
    bill = models.ForeignKey(
        Bill, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="records"
    )
    service = models.CharField(max_length=SERVICE_LENGTH)
    units = ExactDecimalField(**UNITS_DIGITS)
    price_per_unit = ExactDecimalField(**PRICE_DIGITS)
    occurred_at = models.DateTimeField()
    recorded_at = models.DateTimeField()
    late = models.BooleanField(
        default=False, help_text="The usage occurred before its bill's period began."
    )
    reported_by = models.ForeignKey(
        ApiKey,
        null=True,
        on_delete=models.PROTECT,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    voids = models.ForeignKey(
        "self", null=True, on_delete=models.PROTECT, db_index=False, related_name="+"
    )
    void_reason = models.CharField(max_length=REASON_LENGTH, blank=True)
    voided_by = models.CharField(
        max_length=ACTOR_LENGTH, blank=True, help_text="A staff user's name."
    )

    objects = models.Manager.from_queryset(FrozenQuerySet)()

    class Meta:
        indexes = (
            # Ascending, so that they grow at one end, and without the ids, which only put in order
            # records of the same instant: every record is written into the first two. One by
            # customer would take an eighth of PostgreSQL's time: see `first_of_customer`.
            models.Index(name="record_by_time", fields=("recorded_at",)),
            models.Index(name="record_by_bill", fields=("bill", "recorded_at")),
            models.Index(name="record_late", fields=("recorded_at",), condition=Q(late=True)),
            models.Index(
                name="record_voids", fields=("recorded_at",), condition=Q(voids__isnull=False)
            ),
        )
        constraints = (
            models.CheckConstraint(
                name="record_id_printable_or_void",
                condition=Q(PrintableAscii(F("request_id")), voids__isnull=True)
                | Q(request_id=Concat(Value(VOID_PREFIX), "voids_id"), voids__isnull=False),
            ),
            models.CheckConstraint(
                name="record_units_signed",
                condition=Q(voids__isnull=True, units__gt=0) | Q(voids__isnull=False, units__lt=0),
            ),
            models.CheckConstraint(
                name="record_price_not_negative", condition=Q(price_per_unit__gte=0)
            ),
            models.CheckConstraint(
                name="record_amount_below_limit",
                condition=Q(AmountBelowLimit(F("units"), F("price_per_unit"))),
            ),
            models.CheckConstraint(
                name="record_service_given",
                condition=Q(
                    CleanText(F("service")),
                    lookups.LessThanOrEqual(Length("service"), SERVICE_LENGTH),
                ),
            ),
            models.CheckConstraint(
                name="record_occurred_in_time",
                condition=Q(voids__isnull=False)
                | Q(OccurredInTime(F("occurred_at"), F("recorded_at"))),
            ),
            models.CheckConstraint(
                name="record_void_with_reason",
                condition=Q(voids__isnull=True, void_reason="", voided_by="")
                | (Q(voids__isnull=False) & ~Q(void_reason="") & ~Q(voided_by="")),
            ),
            readable(
                "record_readable",
                texts=("request_id", "service", "voids", "void_reason", "voided_by"),
                integers=("customer", "bill", "reported_by"),
                numbers=("units", "price_per_unit"),
                instants=("occurred_at", "recorded_at"),
                booleans=("late",),
            ),
        )

    def __str__(self) -> str:
        return str(self.request_id)

    @property
    def amount(self) -> Decimal:
        """Units × price, digit for digit."""
        return exact_amount(self.units, self.price_per_unit)

    @property
    def void_record(self) -> Self | None:
        """The record that cancels this one, if there is one."""
        return type(self).objects.filter(pk=VOID_PREFIX + self.pk).first()


def first_of_customer(
    records: QuerySet[Any, Any], customer_id: int, ordering: Sequence[str], count: int, *values: str
) -> list[tuple[Any, ...]]:
    """Return recorded_at, request_id and `values` of a customer's first `count` records in order.

    No index has a customer's records in the order of their recording, but each bill's are in one.
    The bills are read in the order of their first records until no other bill's can be among those
    found. `ordering` is by recorded_at, then by request_id.
    """
    by_time, by_id = (name.startswith("-") for name in ordering)
    is_beyond = lt if by_time else gt
    # One whose instant cannot be read would hide all of its bill; `verify_bills` names it.
    records = records.filter(Readable(instants=("recorded_at",)))
    first = records.filter(bill=OuterRef("pk")).order_by(ordering[0]).values("recorded_at")[:1]
    bills = Bill.objects.with_unreadable().filter(customer=customer_id).order_by()
    firsts = bills.annotate(first_at=Subquery(first)).values_list("first_at", "pk")
    ids = [(first_at, pk) for first_at, pk in firsts if first_at]
    found: list[tuple[Any, ...]] = []
    for first_at, bill_id in sorted(ids, reverse=by_time):
        if len(found) == count and is_beyond(first_at, found[-1][0]):
            break
        of_bill = records.filter(bill=bill_id).order_by(*ordering)
        found += of_bill.values_list("recorded_at", "request_id", *values)[:count]
        found.sort(key=itemgetter(1), reverse=by_id)
        found.sort(key=itemgetter(0), reverse=by_time)
        del found[count:]
    return found
