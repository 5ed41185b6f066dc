"""Checks of the rows in the database: `check --database default`, and before `migrate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.core import checks
from django.db import DatabaseError

from usage.currencies import ISO_DIGITS
from usage.models import BillingTimeZone, Customer, OtherTimeZone

_MOST_NAMED = 5


def books(*, databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Check the time zone that the bills are kept in, and the currencies of customers."""
    if not databases:
        return []
    try:
        return list(_faults())
    except DatabaseError:  # before the first migration there are no tables
        return []


def _faults() -> Iterator[checks.CheckMessage]:
    try:
        BillingTimeZone.objects.confirm()
    except OtherTimeZone as error:
        yield checks.Error(str(error), id="usage.E002")
    outside_iso = Customer.objects.exclude(currency__in=ISO_DIGITS)
    found = list(outside_iso.values_list("pk", "currency")[: _MOST_NAMED + 1])
    if found:
        named = ", ".join(f"{pk} ({currency})" for pk, currency in found[:_MOST_NAMED])
        yield checks.Warning(
            f"Customers have currencies without a minor unit in ISO 4217: {named}"
            f"{' and others' if len(found) > _MOST_NAMED else ''}.",
            hint="They are billed with the digits they had; new customers cannot have these.",
            id="usage.W002",
        )
