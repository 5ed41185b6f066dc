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
from usage.models.usage_record import first_of_customer
from usage.money import EXACT, exact_amount

# With filters that no one index serves, a list reads at most this many records for a page.
LOOKED_THROUGH = 5_000


class RecordChangeList(KeysetChangeList):
    """Records, newest first.

    With filters that no one index serves, a page looks through a bounded number of records,
    and the next page goes on from there.
    """

    def rows(self, ordering: Sequence[str], position: Position | None) -> list[Any]:
        rows, self.next_position = self._within_bounds(ordering, position)
        count = self.list_per_page + 1
        if self.customer:
            ids = [row[1] for row in first_of_customer(rows, self.customer, ordering, count)]
            rows = self.root_queryset.filter(pk__in=ids)
        found = list(rows.order_by(*ordering)[:count])
        if self.next_position and len(found) < count:
            self.looked_through = LOOKED_THROUGH
        return found

    def summary(self) -> str:
        if not self.is_narrowed or self.refusal:
            return ""
        rows, stopped_at = self._within_bounds(self.model_admin.ordering, None)
        amounts = ("bill__currency", "units", "price_per_unit")
        found = self._values(rows, self.model_admin.ordering, 0, LOOKED_THROUGH + 1, *amounts)
        if len(found) > LOOKED_THROUGH:
            return f"More than {LOOKED_THROUGH:,} records."
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for _, _, currency, units, price in found:
            sums[currency] = EXACT.add(sums[currency], exact_amount(units, price))
        where = f" among the newest {LOOKED_THROUGH:,} looked through" if stopped_at else ""
        return formats.counted_sums(len(found), f"record{where}", f"records{where}", sums)

    def _within_bounds(
        self, ordering: Sequence[str], position: Position | None
    ) -> tuple[QuerySet[Any], Position | None]:
        """Return the rows after a position, and where looking through them stops, if it does."""
        if self.query or self._served is None:
            stops_at = None
        else:
            stops_at = self._stop(ordering, position) if position else self._first_stop
        rows = self.queryset.filter(position.after()) if position else self.queryset
        return rows.filter(stops_at.up_to()) if stops_at else rows, stops_at

    @cached_property
    def _first_stop(self) -> Position | None:
        """Where looking through the rows of the first page stops: their sum is of the same rows."""
        return self._stop(self.model_admin.ordering, None)

    def _stop(self, ordering: Sequence[str], position: Position | None) -> Position | None:
        rows = self.root_queryset.filter(self._served)
        if position:
            rows = rows.filter(position.after())
        last_and_next = self._values(rows, ordering, LOOKED_THROUGH - 1, LOOKED_THROUGH + 1)
        return Position(ordering, last_and_next[0]) if len(last_and_next) == 2 else None

    def _values(
        self,
        rows: QuerySet[Any],
        ordering: Sequence[str],
        start: int,
        stop: int,
        *values: str,
    ) -> list[tuple[Any, ...]]:
        """Return recorded_at, request_id and `values` of a part of the rows in order."""
        if self.customer:
            return first_of_customer(rows, self.customer, ordering, stop, *values)[start:]
        fields = (*(name.removeprefix("-") for name in ordering), *values)
        return list(rows.order_by(*ordering).values_list(*fields)[start:stop])

    @property
    def customer(self) -> int | None:
        """The customer whose bills have the rows, if no other filter has an index for them."""
        return self._indexed.found if isinstance(self._indexed, CustomerFilter) else None

    @cached_property
    def _served(self) -> Q | None:
        """The condition that an index serves; None if it serves all filters."""
        served = [spec for spec in self.filters if spec is self._indexed or spec.is_range]
        return Q(*(spec.applied for spec in served)) if len(served) < len(self.filters) else None

    @cached_property
    def _indexed(self) -> ListFilter | None:
        return next((spec for spec in self.filters if spec.is_indexed), None)

    @cached_property
    def filters(self) -> list[ListFilter]:
        """The filters that have a value."""
        return [spec for spec in cast("list[ListFilter]", self.filter_specs) if spec.applied]
