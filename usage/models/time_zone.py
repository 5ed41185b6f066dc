"""The billing time zone of the books: kept once, when the first bill opens."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Exists, F, Min, OuterRef, Q, QuerySet

from usage.database.constraints import readable
from usage.database.transactions import DatabaseUnavailable
from usage.models.base import FrozenModel, FrozenQuerySet
from usage.periods import Period, is_same_zone, month_bounds


class OtherTimeZone(DatabaseUnavailable):
    """The books are kept in another time zone than this process's, which may not use them."""


def confirm_zone(kept: str | None) -> None:
    """Raise OtherTimeZone if the zone that the books are kept in is not this process's."""
    if kept and kept != settings.TIME_ZONE and not is_same_zone(kept, settings.TIME_ZONE):
        raise OtherTimeZone(
            f"The bills are kept in the time zone {kept}, but BILLING_TIME_ZONE is"
            f" {settings.TIME_ZONE}: set it to {kept} and start again."
        )


def confirm_fit(bills: QuerySet[Any]) -> None:
    """Raise OtherTimeZone, which names a bill, unless all periods are of this process's zone.

    A bill starts with its month or where another one ended, and ends with its month or when it was
    closed. A month's bounds are known to Python alone, so each distinct edge is read once.
    """
    if not bills.exists():
        return
    before = bills.filter(
        customer=OuterRef("customer"), month=OuterRef("month"), period_end=OuterRef("period_start")
    )
    starts = bills.filter(~Exists(before.order_by()))
    ends = bills.filter(Q(closed_at=None) | ~Q(closed_at=F("period_end")))
    for edge, name, of_bills in ((0, "period_start", starts), (1, "period_end", ends)):
        edges = of_bills.order_by().values_list("month", name).annotate(first=Min("pk"))
        for month, instant, bill_id in edges:
            if instant != month_bounds(month)[edge]:
                bill = bills.get(pk=bill_id)
                raise misfit_of(bill.pk, month, Period(bill.period_start, bill.period_end))


def misfit_of(bill: object, month: dt.date, period: Period) -> OtherTimeZone:
    """Return the error that a bill's period is not of its month in this process's zone."""
    start, end = month_bounds(month)
    return OtherTimeZone(
        f"Bill {bill} of {month:%Y-%m} covers {period.start:%Y-%m-%d %H:%M} to"
        f" {period.end:%Y-%m-%d %H:%M} UTC, but with BILLING_TIME_ZONE={settings.TIME_ZONE} the"
        f" month is {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC: set it to the time zone in"
        " which the bills were opened."
    )


class TimeZoneQuerySet(FrozenQuerySet["BillingTimeZone"]):
    """The one row, as it is asked for and kept."""

    def kept(self) -> str | None:
        """Return the IANA key of the zone, or None before the first bill."""
        return self.values_list("name", flat=True).first()

    def confirm(self) -> None:
        """Raise OtherTimeZone if the books are kept in another zone than this process's."""
        confirm_zone(self.kept())

    def keep(self, bills: QuerySet[Any]) -> None:
        """Keep this process's zone unless one is kept, in the transaction that opens a bill.

        `bills` are all that there are: an older version may have opened some without keeping it.
        Raises OtherTimeZone if those, or the zone that is kept, are of another zone.
        """
        if self.kept() is None:
            confirm_fit(bills)
            self.bulk_create([self.model(name=settings.TIME_ZONE)], ignore_conflicts=True)
        # Another process may have kept its own: the insertion waited for it, and this sees it.
        self.confirm()


class BillingTimeZone(FrozenModel):
    """The zone whose months and days are billed. There is one row, which never changes."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    name = models.CharField(max_length=64, help_text="The key in the IANA database.")

    objects = models.Manager.from_queryset(TimeZoneQuerySet)()

    class Meta:
        default_permissions = ()
        constraints = (
            models.CheckConstraint(name="billing_time_zone_once", condition=Q(id=1)),
            models.CheckConstraint(name="billing_time_zone_given", condition=~Q(name="")),
            readable("billing_time_zone_readable", texts=("name",)),
        )

    def __str__(self) -> str:
        return self.name
