"""The list of bills. Only closed bills have a column with their total."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.urls import reverse

from usage.admin import formats
from usage.admin.bill_filters import MonthFilter, TotalFilter
from usage.admin.paging import KeysetChangeList, Position
from usage.models import Bill, DailyUsage
from usage.money import EXACT

# With a filter by total, a page adds up at most this many bills; a sum likewise.
LOOKED_THROUGH = 500
COUNTED = 5_000


class BillChangeList(KeysetChangeList):
    """Bills, latest month first. The totals of open ones are added up for filters and the sum."""

    @property
    def month_url(self) -> str:
        """The page of the chosen month's closed bills, or an empty text."""
        for spec in self.filter_specs:
            if isinstance(spec, MonthFilter) and spec.applied:
                return reverse("admin:usage_bill_month", args=[spec.text])
        return ""

    def rows(self, ordering: Sequence[str], position: Position | None) -> list[Any]:
        if not self._total_filters():
            return super().rows(ordering, position)
        per_page, self.list_per_page = self.list_per_page, LOOKED_THROUGH
        bills = super().rows(ordering, position)
        self.list_per_page = per_page
        found = [bill for bill, _ in self._of_total(bills[:LOOKED_THROUGH])]
        self.next_position = None
        if len(bills) > LOOKED_THROUGH:
            self.next_position = Position.of(bills[LOOKED_THROUGH - 1], ordering)
            self.looked_through = LOOKED_THROUGH
        return found

    def summary(self) -> str:
        if not self.is_narrowed or self.refusal:
            return ""
        bills = list(self.queryset.order_by(*self.model_admin.ordering)[: COUNTED + 1])
        where = ""
        if self._total_filters() and len(bills) > LOOKED_THROUGH:
            where = f" among the first {LOOKED_THROUGH:,} looked through"
            bills = bills[:LOOKED_THROUGH]
        if len(bills) > COUNTED:
            return f"More than {COUNTED:,} bills."
        if sum(not bill.is_closed for bill in bills) > LOOKED_THROUGH:
            return f"{len(bills):,} bills, of which too many are open to add up their totals."
        found = self._of_total(bills)
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for bill, total in found:
            sums[bill.currency] = EXACT.add(sums[bill.currency], total)
        return formats.counted_sums(len(found), f"bill{where}", f"bills{where}", sums)

    def _total_filters(self) -> list[TotalFilter]:
        return [spec for spec in self.filter_specs if isinstance(spec, TotalFilter) and spec.text]

    def _of_total(self, bills: list[Bill]) -> list[tuple[Bill, Decimal]]:
        """Return those of these bills whose totals the filters admit, each with its total."""
        totals = DailyUsage.objects.totals_of(bills)
        filters = self._total_filters()
        found = ((bill, totals[bill.pk]) for bill in bills)
        return [pair for pair in found if all(spec.admits(pair[1]) for spec in filters)]
