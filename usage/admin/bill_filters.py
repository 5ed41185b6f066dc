"""The filters of the list of bills."""

from __future__ import annotations

import datetime as dt
import operator
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import cached_property
from typing import Any

from django.db.models import Q

from usage.admin.filters import ListFilter
from usage.admin.formats import amount_of
from usage.database.transactions import database_now
from usage.models import Bill
from usage.money import EXACT
from usage.periods import last_due_month, months_up_to

_MONTHS_SHOWN = 24
# The last digit that a closed total keeps.
_LAST_DIGIT = Decimal("0.0001")
# SQLite cannot compare larger ones with the column.
_COMPARABLE = Decimal(2**63 // 10**4)


class MonthFilter(ListFilter):
    """Shows the bills of one month."""

    title = "month"
    parameter_name = "month"
    expected = "Use YYYY-MM."

    @cached_property
    def options(self) -> Sequence[tuple[str, str]]:
        """The latest months that have bills, and the one in the address."""
        with_bills = Bill.objects.order_by("-month").values_list("month", flat=True)
        months: list[dt.date] = []
        if (latest := with_bills.first()) and (oldest := with_bills.last()):
            months = [month for month in months_up_to(latest, _MONTHS_SHOWN) if month >= oldest]
        if self.applied and (chosen := _month(self.text)) not in months:
            months.append(chosen)
        return [(f"{month:%Y-%m}", f"{month:%B %Y}") for month in months]

    def condition(self, text: str) -> Q:
        return Q(month=_month(text))


def _month(text: str) -> dt.date:
    return dt.date.fromisoformat(f"{text}-01")


class StateFilter(ListFilter):
    """Shows open, due, held or closed bills."""

    title = "state"
    parameter_name = "state"
    options = (
        ("open", "Open"),
        ("due", "Due to close"),
        ("held", "On hold"),
        ("closed", "Closed"),
    )

    def condition(self, text: str) -> Q:
        match text:
            case "open":
                return Q(closed_at__isnull=True)
            case "due":
                return Q(closed_at__isnull=True, month__lte=last_due_month(database_now()))
            case "held":
                return Q(hold__isnull=False)
            case "closed":
                return Q(closed_at__isnull=False)
        raise ValueError(f"{text!r} is not a state.")


class TotalFilter(ListFilter):
    """Shows bills by their totals, each in its own currency.

    The condition is on closed bills alone. `BillChangeList` adds up the totals of open ones.
    """

    expected = "Write it as 1000.50."
    amount: Decimal | None = None
    lookup: str
    rounding: str
    compare: Callable[..., Any]

    def condition(self, text: str) -> Q:
        self.amount = amount_of(text)
        if abs(self.amount) > _COMPARABLE:
            return Q()
        kept = self.amount.quantize(_LAST_DIGIT, self.rounding, EXACT)
        return Q(closed_at__isnull=True) | Q((f"closed_total__{self.lookup}", kept))

    def admits(self, total: Decimal) -> bool:
        """Tell whether a bill of this total is shown."""
        return self.amount is None or bool(self.compare(total, self.amount))


class LeastTotalFilter(TotalFilter):
    """Shows bills of at least a total."""

    title = "least total"
    parameter_name = "total_from"
    lookup, rounding, compare = "gte", ROUND_CEILING, operator.ge


class MostTotalFilter(TotalFilter):
    """Shows bills of at most a total."""

    title = "largest total"
    parameter_name = "total_until"
    lookup, rounding, compare = "lte", ROUND_FLOOR, operator.le
