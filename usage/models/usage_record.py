"""Usage records: facts that never change, and voids that cancel them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Self

from django.db import models
from django.db.models import F, Max, Min, OuterRef, Q, QuerySet, Subquery, Value, lookups
from django.db.models.functions import Concat, Length

from usage.database.constraints import (
    AmountBelowLimit,
    CleanText,
    OccurredInTime,
    PrintableAscii,
    Readable,
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

    Never changed, never deleted. A void is a record of its own with negative units. That its bill,
    customer and key exist is for the guards to see, once for all the records of a statement.
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
            # customer would take an eighth of PostgreSQL's time: see `of_customer`.
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
            models.CheckConstraint(
                name="record_readable",
                condition=Q(
                    Readable(
                        texts=("request_id", "service", "voids", "void_reason", "voided_by"),
                        integers=("customer", "bill", "reported_by"),
                        numbers=("units", "price_per_unit"),
                        instants=("occurred_at", "recorded_at"),
                        booleans=("late",),
                    )
                ),
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


class _WithoutIndex(models.Func):
    """The same instant, which the database does not look up in an index."""

    arity = 1
    template = "(%(expressions)s + interval '0')"

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, Any]:
        return self.as_sql(compiler, connection, template="+%(expressions)s", **context)


def of_customer(
    records: QuerySet[Any, Any],
    customer_id: int,
    ordering: Sequence[str],
    count: int | None = None,
) -> QuerySet[Any, Any]:
    """Return a customer's records in order, for whoever reads the first `count` of them.

    Only their bills' records are in an index in the order of their recording. Where one bill alone
    has `count` records, no record beyond the last of those is among the first of all bills.
    """
    recorded_at, *others = ordering
    is_descending = recorded_at.startswith("-")
    if count:
        of_bill = records.filter(bill=OuterRef("pk")).order_by(recorded_at).values("recorded_at")
        nearest = (Max if is_descending else Min)(Subquery(of_bill[count - 1 : count]))
        if bound := Bill.objects.filter(customer=customer_id).aggregate(at=nearest)["at"]:
            side = "gte" if is_descending else "lte"
            records = records.filter(**{f"recorded_at__{side}": bound})
    # In the order of the index by time, the database would read the records of all customers.
    instant = _WithoutIndex("recorded_at")
    return records.filter(bill__customer=customer_id).order_by(
        instant.desc() if is_descending else instant.asc(), *others
    )
