"""The list of records, with filters that no one index serves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any, cast

from django.db.models import Q, QuerySet

from usage.admin import formats
from usage.admin.filters import CustomerFilter, ListFilter
from usage.admin.paging import KeysetChangeList, Position
from usage.models.usage_record import of_customer
from usage.money import EXACT, exact_amount

# With filters that no one index serves, a list reads at most this many records for a page.
LOOKED_THROUGH = 5_000


class RecordChangeList(KeysetChangeList):
    """Records, newest first.

    With filters that no one index serves, a page looks through a bounded number of records,
    and the next page goes on from there.
    """

    def rows(self, ordering: Sequence[str], position: Position | None) -> list[Any]:
        count = self.list_per_page + 1
        rows, self.next_position = self._within_bounds(ordering, position, count)
        found = list(rows[:count])
        if self.next_position and len(found) < count:
            self.looked_through = LOOKED_THROUGH
        return found

    def summary(self) -> str:
        if not self.is_narrowed or self.refusal:
            return ""
        count = LOOKED_THROUGH + 1
        rows, stopped_at = self._within_bounds(self.model_admin.ordering, None, count)
        found = list(rows.values_list("bill__currency", "units", "price_per_unit")[:count])
        if len(found) > LOOKED_THROUGH:
            return f"More than {LOOKED_THROUGH:,} records."
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for currency, units, price in found:
            sums[currency] = EXACT.add(sums[currency], exact_amount(units, price))
        where = f" among the newest {LOOKED_THROUGH:,} looked through" if stopped_at else ""
        return formats.counted_sums(len(found), f"record{where}", f"records{where}", sums)

    def _within_bounds(
        self, ordering: Sequence[str], position: Position | None, count: int
    ) -> tuple[QuerySet[Any], Position | None]:
        """Return the rows after a position, of which `count` are wanted.

        With them, return where looking through them stops, if it does.
        """
        rows = self.queryset.filter(position.after()) if position else self.queryset
        if self.query:
            return rows.order_by(*ordering), None
        if self._served is None:
            return self._in_order(rows, ordering, count), None
        if position is None and list(ordering) == list(self.model_admin.ordering):
            stops_at = self._first_stop
        else:
            stops_at = self._stop(ordering, position)
        if stops_at:
            rows = rows.filter(stops_at.up_to())
        return self._in_order(rows, ordering), stops_at

    @cached_property
    def _first_stop(self) -> Position | None:
        """Where looking through the rows of the first page stops: their sum is of the same rows."""
        return self._stop(self.model_admin.ordering, None)

    def _stop(self, ordering: Sequence[str], position: Position | None) -> Position | None:
        rows = self.root_queryset.filter(self._served)
        if position:
            rows = rows.filter(position.after())
        fields = (name.removeprefix("-") for name in ordering)
        rows = self._in_order(rows, ordering, LOOKED_THROUGH + 1).values_list(*fields)
        last_and_next = rows[LOOKED_THROUGH - 1 : LOOKED_THROUGH + 1]
        return Position(ordering, last_and_next[0]) if len(last_and_next) == 2 else None

    def _in_order(
        self, rows: QuerySet[Any], ordering: Sequence[str], count: int | None = None
    ) -> QuerySet[Any]:
        """Return rows in order; the first `count` are wanted, or all if there are few."""
        if self.customer:
            return of_customer(rows, self.customer, ordering, count)
        return rows.order_by(*ordering)

    @property
    def customer(self) -> int | None:
        """The customer whose bills have the rows, if no other filter has an index for them."""
        first = next(iter(self._indexed), None)
        return first.found if isinstance(first, CustomerFilter) else None

    @cached_property
    def _served(self) -> Q | None:
        """The condition that an index serves; None if it serves all filters."""
        ranges = [spec for spec in self._filters if spec.is_range]
        if len(self._indexed[:1]) + len(ranges) == len(self._filters):
            return None
        return Q(*(spec.applied for spec in [*self._indexed[:1], *ranges]))

    @cached_property
    def _indexed(self) -> list[ListFilter]:
        return [spec for spec in self._filters if spec.is_indexed]

    @cached_property
    def _filters(self) -> list[ListFilter]:
        return [spec for spec in cast("list[ListFilter]", self.filter_specs) if spec.applied]
