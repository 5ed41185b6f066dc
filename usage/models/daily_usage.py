"""Daily usage: the sums that make reading a bill cost the same at any number of records."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple, Self

from django.db import models
from django.db.models import Q

from usage.database.constraints import READABLE_DAYS, readable
from usage.database.fields import ExactDecimalField
from usage.database.sums import AmountSum, ExactSum, UncheckedSum
from usage.models.base import FrozenModel, FrozenQuerySet
from usage.models.bill import Bill, Line
from usage.models.customer import Customer
from usage.money import exact_amount, round_amount
from usage.periods import previous_month
from usage.validators import PRICE_DIGITS, SERVICE_LENGTH

SLOTS = 4
# For days that are past (see `usage.ledger.past_days`). A process's own slot is a smaller one.
PAST_SLOT = 3


class LineSum(NamedTuple):
    """The units of one service and unit price on one bill."""

    bill_id: int
    service: str
    price: Decimal
    units: Decimal


class Amount(NamedTuple):
    """The exact amount of one service on one day, on all bills of a month in one currency."""

    currency: str
    month: dt.date
    day: dt.date
    service: str
    amount: Decimal


class DailyUsageQuerySet(FrozenQuerySet["DailyUsage"]):
    """Daily usage as it is asked for."""

    def lines_of(self, bills: Iterable[Bill]) -> dict[int, list[Line]]:
        """Return the lines of each of these bills by bill id, by service and price.

        One query reads them all. A bill without usage has no lines.
        """
        digits = {bill.pk: bill.digits for bill in bills}
        rows = (
            self.readable()
            .filter(bill__in=list(digits))
            .values_list("bill_id", "service", "price_per_unit")
            .annotate(ExactSum("units"), models.Sum("records"))
            .order_by("bill_id", "service", "price_per_unit")
        )
        lines: dict[int, list[Line]] = defaultdict(list)
        for bill_id, service, price, units, records in rows:
            amount = round_amount(exact_amount(units, price), digits[bill_id])
            lines[bill_id].append(Line(service, price, units, records, amount))
        return lines

    def totals_of(self, bills: Iterable[Bill]) -> dict[int, Decimal]:
        """Return the total of each of these bills by bill id.

        One query reads the lines of all that are open.
        """
        bills = list(bills)
        lines = self.lines_of(bill for bill in bills if not bill.is_closed)
        return {
            bill.pk: bill.total if bill.is_closed else bill.total_of(lines.get(bill.pk, []))
            for bill in bills
        }

    def past(self, until: dt.date) -> Self:
        """Return the rows whose sums are kept, `until` being past: no request adds to them."""
        bills = Q(bill__month__gte=previous_month(until.replace(day=1)))
        return self.readable().filter(bills, day__lte=until).exclude(slot=PAST_SLOT)

    def not_past(self, until: dt.date | None) -> Self:
        """Return the other rows; all of them if no day is past."""
        return self.all() if until is None else self.filter(Q(day__gt=until) | Q(slot=PAST_SLOT))

    def line_sums(self) -> Iterable[LineSum]:
        """Return the units of each bill, service and unit price, leaving out NaN and infinity.

        Without a join and a cursor, so that PostgreSQL may use several processes.
        """
        rows = self.values_list("bill_id", "service", "price_per_unit")
        summed = map(LineSum._make, rows.annotate(UncheckedSum("units")).order_by())
        return (line for line in summed if line.price.is_finite() and line.units.is_finite())

    def amount_sums(self) -> Iterable[Amount]:
        """Return the exact amount of each currency, month, day and service."""
        rows = self.filter(day__range=READABLE_DAYS).values_list(
            "bill__currency", "bill__month", "day", "service"
        )
        amounts = rows.annotate(amount=AmountSum("units", "price_per_unit")).order_by()
        return map(Amount._make, amounts)


class DailyUsageManager(models.Manager.from_queryset(DailyUsageQuerySet)):  # type: ignore[misc]  # made at run time
    """Finds daily usage by what fixtures call it."""

    def get_by_natural_key(  # noqa: PLR0917 - Django passes the parts of the key by position
        self,
        customer: int,
        period_start: str,
        service: str,
        price_per_unit: str,
        day: str,
        slot: int,
    ) -> DailyUsage:
        daily_usage: DailyUsage = self.get(
            bill__customer=customer,
            bill__period_start=period_start,
            service=service,
            price_per_unit=price_per_unit,
            day=day,
            slot=slot,
        )
        return daily_usage


class DailyUsage(FrozenModel):
    """Units and records of one bill, service, unit price and day of the billing time zone.

    Only the write path adds to it, in the transaction that stores the records. The slot spreads
    writers of one hot customer over several rows, and sets apart usage for days that are past;
    readers sum the slots.
    """

    customer = models.ForeignKey(
        Customer, on_delete=models.PROTECT, db_constraint=False, db_index=False, related_name="+"
    )
    bill = models.ForeignKey(
        Bill,
        on_delete=models.PROTECT,
        db_constraint=False,
        db_index=False,
        related_name="daily_usage",
    )
    service = models.CharField(max_length=SERVICE_LENGTH)
    price_per_unit = ExactDecimalField(**PRICE_DIGITS)
    day = models.DateField()
    slot = models.SmallIntegerField()
    units = ExactDecimalField(max_digits=30, decimal_places=6)
    records = models.BigIntegerField()

    objects = DailyUsageManager()

    class Meta:
        verbose_name_plural = "daily usage"
        constraints = (
            models.UniqueConstraint(
                name="daily_usage_once",
                fields=("bill", "service", "price_per_unit", "day", "slot"),
            ),
            models.CheckConstraint(
                name="daily_usage_slot", condition=models.Q(slot__gte=0, slot__lt=SLOTS)
            ),
            models.CheckConstraint(name="daily_usage_records", condition=models.Q(records__gt=0)),
            models.CheckConstraint(
                name="daily_usage_price", condition=models.Q(price_per_unit__gte=0)
            ),
            readable(
                "daily_usage_readable",
                integers=("customer", "bill", "slot", "records"),
                texts=("service",),
                numbers=("price_per_unit", "units"),
                dates=("day",),
            ),
        )

    def __str__(self) -> str:
        return f"{self.service} on {self.day}"

    def natural_key(self) -> tuple[Any, ...]:
        return (
            *self.bill.natural_key(),
            self.service,
            str(self.price_per_unit),
            self.day,
            self.slot,
        )

    natural_key.dependencies = ["usage.bill"]  # type: ignore[attr-defined]  # read by dumpdata
