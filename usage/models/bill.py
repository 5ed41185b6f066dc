"""Bills: what one customer owes for a month, line by line, open until closed for ever."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple

from django.db import models
from django.db.models import F, Q
from django.db.models.sql import Query

from usage.currencies import cldr_digits, digits_of
from usage.database.constraints import CurrencyCode, FirstDayOfMonth, readable
from usage.database.fields import ExactDecimalField
from usage.database.names import NameField
from usage.models.base import FrozenModel, FrozenQuerySet
from usage.models.customer import CUSTOMER_NAME_LENGTH, REFERENCE_LENGTH, Customer
from usage.models.time_zone import BillingTimeZone, misfit_of
from usage.money import exact_amount, exact_sum, round_amount
from usage.periods import Period, grace_end, last_due_month, month_bounds


class Line(NamedTuple):
    """A bill's usage of one service at one unit price; `amount` is rounded, once."""

    service: str
    price_per_unit: Decimal
    units: Decimal
    records: int
    amount: Decimal

    @property
    def exact_amount(self) -> Decimal:
        return exact_amount(self.units, self.price_per_unit)


class BillQuerySet(FrozenQuerySet["Bill"]):
    """Bills as they are asked for."""

    def open(self) -> BillQuerySet:
        return self.filter(closed_at__isnull=True)

    def closed(self) -> BillQuerySet:
        return self.filter(closed_at__isnull=False)

    def due(self, now: dt.datetime) -> BillQuerySet:
        """Return the open bills whose month and grace are over at the instant `now`."""
        return self.open().filter(month__lte=last_due_month(now))

    def chunks(self, size: int) -> Iterator[list[Bill]]:
        """Yield the bills by id, at most `size` at a time.

        Each chunk is a query of its own: a cursor would end with the transaction of a close.
        """
        last = 0
        while chunk := list(self.filter(pk__gt=last).order_by("pk")[:size]):
            yield chunk
            last = chunk[-1].pk


@cache
def _readable_bills() -> Query:
    """Return the manager's query, which is made once: that is a seventh of the time of a query."""
    return BillQuerySet(Bill).readable().query


class BillManager(models.Manager.from_queryset(BillQuerySet)):  # type: ignore[misc]  # made at run time
    """Finds the bills that can be read, also by what fixtures call them.

    One row that cannot be read would end every list that has it; `verify_bills` names it.
    """

    def get_queryset(self) -> BillQuerySet:
        bills: BillQuerySet = super().get_queryset()
        bills.query = _readable_bills().clone()
        return bills

    def with_unreadable(self) -> BillQuerySet:
        """Return all bills; of those that cannot be read only the key may be asked for."""
        bills: BillQuerySet = super().get_queryset()
        return bills

    def get_by_natural_key(self, customer: int, period_start: str) -> Bill:
        bill: Bill = self.get(customer=customer, period_start=period_start)
        return bill


class Bill(FrozenModel):
    """What one customer owes for a month, or for the rest of one after an early close.

    It is open until closed, then frozen for ever. The write path opens it, and never touches it
    again; `close()` is the only change it knows.
    """

    customer = models.ForeignKey(
        Customer, on_delete=models.PROTECT, db_index=False, related_name="bills"
    )
    month = models.DateField(help_text="The first day of the month, in the billing time zone.")
    period_start = models.DateTimeField()
    period_end = models.DateTimeField(help_text="The first instant that is not in the period.")
    currency = models.CharField(
        max_length=3, editable=False, help_text="The customer's when the bill was opened."
    )
    minor_unit_digits = models.SmallIntegerField(
        null=True,  # a version that knows nothing of it may open bills beside this one
        editable=False,
        help_text="Digits after the point of its amounts, as ISO 4217 has them when it opens.",
    )
    closed_at = models.DateTimeField(null=True, editable=False)
    closed_total = ExactDecimalField(max_digits=30, decimal_places=4, null=True, editable=False)
    closed_name = NameField(
        max_length=CUSTOMER_NAME_LENGTH,
        null=True,
        editable=False,
        help_text="The customer's name when the bill was closed.",
    )
    closed_reference = NameField(
        max_length=REFERENCE_LENGTH,
        null=True,
        editable=False,
        help_text="The customer's reference when the bill was closed.",
    )
    named_after_closing = models.BooleanField(
        default=False,
        db_default=False,
        editable=False,
        help_text="The bill was closed before names were kept: they are of the upgrade's day.",
    )

    objects = BillManager()

    class Meta:
        ordering = ("-month", "customer_id", "-period_start")
        constraints = (
            models.UniqueConstraint(name="bill_period_once", fields=("customer", "period_start")),
            models.UniqueConstraint(
                name="bill_open_once",
                fields=("customer", "month"),
                condition=Q(closed_at__isnull=True),
            ),
            models.CheckConstraint(
                name="bill_currency_code", condition=Q(CurrencyCode(F("currency")))
            ),
            models.CheckConstraint(
                name="bill_period_forward", condition=Q(period_start__lt=F("period_end"))
            ),
            models.CheckConstraint(
                name="bill_month_first_day", condition=Q(FirstDayOfMonth(F("month")))
            ),
            models.CheckConstraint(
                name="bill_closed_with_total",
                condition=Q(closed_at__isnull=True, closed_total__isnull=True)
                # A comparison with null is null, and a check that is null admits the row.
                | Q(
                    closed_at__isnull=False,
                    closed_at__gt=F("period_start"),
                    closed_total__isnull=False,
                ),
            ),
            models.CheckConstraint(
                name="bill_closed_with_name",
                condition=Q(
                    closed_at__isnull=True, closed_name__isnull=True, closed_reference__isnull=True
                )
                | Q(
                    closed_at__isnull=False,
                    closed_name__isnull=False,
                    closed_reference__isnull=False,
                ),
            ),
            models.CheckConstraint(
                name="bill_minor_unit_digits",
                condition=Q(minor_unit_digits__isnull=True)
                | Q(minor_unit_digits__gte=0, minor_unit_digits__lte=4),
            ),
            readable(
                "bill_readable",
                integers=("customer", "minor_unit_digits"),
                dates=("month",),
                instants=("period_start", "period_end", "closed_at"),
                texts=("currency", "closed_name", "closed_reference"),
                booleans=("named_after_closing",),
                numbers=("closed_total",),
            ),
        )
        indexes = (models.Index(name="bill_by_month", fields=("-month", "customer")),)

    def __str__(self) -> str:
        return f"bill {self.pk} of {self.customer}, {self.month:%Y-%m}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Open the bill, in its customer's currency; raises Frozen if it is stored already."""
        self.currency = self.currency or self.customer.currency
        super().save(*args, **kwargs)

    def _save_table(self, raw: bool, *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001 - Django's
        BillingTimeZone.objects.keep(type(self)._base_manager.all())
        period, month = Period(self.period_start, self.period_end), month_bounds(self.month)
        if raw and not month.start <= period.start < period.end <= month.end:
            raise misfit_of("that is loaded", self.month, period)
        if self.minor_unit_digits is None:
            self.minor_unit_digits = self.digits
        return super()._save_table(raw, *args, **kwargs)

    def natural_key(self) -> tuple[Any, ...]:
        return (self.customer_id, self.period_start)

    natural_key.dependencies = ["usage.customer"]  # type: ignore[attr-defined]  # read by dumpdata

    @property
    def customer_name(self) -> str:
        """The customer's name as kept when the bill was closed; today's while it is open."""
        name: str = self.customer.name if self.closed_name is None else self.closed_name
        return name

    @property
    def customer_reference(self) -> str:
        """The customer's reference, likewise."""
        kept = self.closed_reference
        reference: str = self.customer.reference if kept is None else kept
        return reference

    @property
    def is_closed(self) -> bool:
        return self.closed_at is not None

    def is_due(self, now: dt.datetime) -> bool:
        """Tell whether the bill is open and its month and grace are over at the instant `now`."""
        return self.closed_at is None and grace_end(self.month) < now

    def lines(self) -> list[Line]:
        """Return the bill's lines, by service and price."""
        lines: list[Line] = self.daily_usage.lines_of([self])[self.pk]
        return lines

    @property
    def digits(self) -> int:
        """How many digits the bill's amounts have after the point.

        A bill that an older version opened keeps none until it is closed; one that an older
        version closed was rounded to CLDR's.
        """
        if self.minor_unit_digits is not None:
            return self.minor_unit_digits
        return cldr_digits(self.currency) if self.is_closed else digits_of(self.currency)

    def total_of(self, lines: Iterable[Line]) -> Decimal:
        """Return what `lines`, those of this bill, add up to, with all digits of its currency."""
        return round_amount(exact_sum(line.amount for line in lines), self.digits)

    @property
    def total(self) -> Decimal:
        """The sum of the bill's lines, in the customer's currency; fixed once it is closed."""
        if self.closed_total is not None:
            return round_amount(self.closed_total, self.digits)
        return self.total_of(self.lines())
