"""The sums of past days, to which no request adds any more."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any, NamedTuple

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models import F, Q

from usage.database.constraints import readable
from usage.models.daily_usage import Amount, LineSum


class PastSums(NamedTuple):
    """The sums of daily usage up to `until`, or none if that is None."""

    until: dt.date | None
    lines: list[LineSum]
    amounts: list[Amount]


NO_SUMS = PastSums(None, [], [])


class PastDaysQuerySet(models.QuerySet["PastDays"]):
    """The one row, as it is kept."""

    def begin(self, until: dt.date) -> None:
        """Let daily usage up to `until` be past, unless a later day is past already."""
        self.bulk_create([self.model(until=until)], ignore_conflicts=True)
        self.filter(until__lt=until).update(until=until)

    def keep(self, until: dt.date, *, lines: list[Any], amounts: list[Any]) -> None:
        """Keep the sums up to `until`, in place of those before."""
        self.filter(until__gte=until).update(summed_until=until, lines=lines, amounts=amounts)

    def sums(self) -> PastSums:
        row = self.exclude(summed_until=None).first()
        if row is None:
            return NO_SUMS
        lines = [
            LineSum(bill_id, service, Decimal(price), Decimal(units))
            for bill_id, service, price, units in row.lines
        ]
        date = dt.date.fromisoformat
        amounts = [
            Amount(currency, date(month), date(day), service, Decimal(amount))
            for currency, month, day, service, amount in row.amounts
        ]
        return PastSums(row.summed_until, lines, amounts)


class PastDays(models.Model):
    """The last day that is past, and the sums of daily usage up to such a day.

    Usage that still arrives for a day up to `until` goes to rows of daily usage of their own, in
    the slot for past days. The sums are of the other rows, up to `summed_until`, on the bills of
    its month, the month before and later ones. Their numbers are texts, since an integer of
    SQLite's could not hold each of them. Without the row, every sum is read from daily usage.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    until = models.DateField(help_text="In the billing time zone.")
    summed_until = models.DateField(null=True)
    lines = models.JSONField(
        default=list, encoder=DjangoJSONEncoder, help_text="Bill, service, unit price and units."
    )
    amounts = models.JSONField(
        default=list,
        encoder=DjangoJSONEncoder,
        help_text="Currency, month, day, service and exact amount.",
    )

    objects = models.Manager.from_queryset(PastDaysQuerySet)()

    class Meta:
        default_permissions = ()
        constraints = (
            models.CheckConstraint(name="past_days_once", condition=Q(id=1)),
            models.CheckConstraint(
                name="past_days_summed",
                condition=Q(summed_until=None) | Q(summed_until__lte=F("until")),
                violation_error_message="Only past days can be summed.",
            ),
            readable(
                "past_days_readable", dates=("until", "summed_until"), texts=("lines", "amounts")
            ),
        )

    def __str__(self) -> str:
        return f"past days up to {self.until}"
