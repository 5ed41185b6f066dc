"""Rows that Python cannot read: named by their keys, and left out of everything else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.db import models

from usage.models import Bill, DailyUsage, UsageRecord
from usage.models.base import FrozenQuerySet
from usage.verification.difference import Difference


class Unreadable(NamedTuple):
    """A row that was in its table before the table's check, or came past it."""

    model: type[models.Model]
    key: Any
    bill_id: int

    @property
    def difference(self) -> Difference:
        name = f"{self.model._meta.verbose_name} {self.key!r}"
        return Difference(
            self.bill_id,
            "unreadable",
            f"{name} has a value that cannot be read, such as NaN, infinity, or a date that does"
            f" not exist or lies before 1970: correct it in {self.model._meta.db_table}.",
        )


def unreadable_rows(
    bills: FrozenQuerySet[Bill],
    daily_usage: FrozenQuerySet[DailyUsage],
    records: FrozenQuerySet[UsageRecord],
) -> Iterator[Unreadable]:
    """Find the rows that cannot be read, by reading no more than their keys."""
    sources: tuple[tuple[FrozenQuerySet[Any], str], ...] = (
        (bills, "pk"),
        (daily_usage, "bill_id"),
        (records, "bill_id"),
    )
    for rows, bill in sources:
        for key, bill_id in rows.unreadable().order_by().values_list("pk", bill):
            yield Unreadable(rows.model, key, bill_id)
