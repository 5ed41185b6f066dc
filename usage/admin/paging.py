"""Keyset pagination: a page costs the same wherever it is in the list. No counts, no offsets."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import PAGE_VAR, SEARCH_VAR, ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import EmptyPage, Page, PageNotAnInteger, Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import escape

# In front of a position, it asks for the rows before it.
BACKWARDS = "<"

# The room for names on a page, so that it stays below 60 kB even with long ones.
NAMES_BYTES = 16_000


def bytes_of(name: str) -> int:
    """Return how many bytes a name takes on a page."""
    return len(escape(name).encode())


def fitting(rows: list[Any], names_of: Callable[[Any], Iterable[str]]) -> list[Any]:
    """Return as many rows as a page has room for with their names, and at least one."""
    room = NAMES_BYTES
    for number, row in enumerate(rows):
        # The page has each name twice: as text, and in a title or a link.
        room -= 2 * sum(bytes_of(name) for name in names_of(row))
        if room < 0 and number:
            return rows[:number]
    return rows


class UncountedPage(Page):  # type: ignore[type-arg]  # generic only in the stubs
    """A page that knows whether another one follows because it looked one row further."""

    def __init__(self, rows: Sequence[Any], number: int, paginator: Paginator[Any]) -> None:
        super().__init__(rows[: paginator.per_page], number, paginator)
        self.more = len(rows) > paginator.per_page

    def has_next(self) -> bool:
        return self.more and self.number < self.paginator.num_pages


class UncountedPaginator(Paginator):  # type: ignore[type-arg]  # generic only in the stubs
    """Pages by a bounded OFFSET; rows beyond the last page are found by searching."""

    num_pages = 20

    def validate_number(self, number: Any) -> int:
        try:
            asked = int(number)
        except (TypeError, ValueError) as error:
            raise PageNotAnInteger("That page number is not an integer.") from error
        if not 1 <= asked <= self.num_pages:
            raise EmptyPage(f"Pages go from 1 to {self.num_pages}. Narrow your search.")
        return asked

    def page(self, number: Any) -> UncountedPage:
        number = self.validate_number(number)
        start = (number - 1) * self.per_page
        rows = list(self.object_list[start : start + self.per_page + 1])
        return UncountedPage(rows, number, self)


class Position:
    """A place in an ordered list: the values a row there has in the fields it is ordered by."""

    def __init__(self, ordering: Sequence[str], values: Sequence[Any]) -> None:
        self.ordering = ordering
        self.values = values

    @classmethod
    def of(cls, row: Model, ordering: Sequence[str]) -> Position:
        """Return the position of `row`."""
        return cls(ordering, [getattr(row, name.removeprefix("-")) for name in ordering])

    @classmethod
    def parse(cls, text: str, model: type[Model], ordering: Sequence[str]) -> Position:
        """Return the position that `str()` wrote; ValidationError if it did not."""
        try:
            parts = json.loads(text)
            values = [_value(part, model, name) for part, name in zip(parts, ordering, strict=True)]
        except (TypeError, ValueError, OverflowError, RecursionError, ValidationError) as error:
            raise ValidationError(
                "The page's address is damaged. Go back to the first page."
            ) from error
        return cls(ordering, values)

    def __str__(self) -> str:
        return json.dumps([str(value) for value in self.values], separators=(",", ":"))

    def after(self) -> Q:
        """Match the rows that come after this one."""
        return self._beyond(self.ordering)

    def up_to(self) -> Q:
        """Match the rows that come before this one, and this one."""
        backwards = reverse_of(self.ordering)
        return self._beyond(backwards) | self._here(backwards)

    def _beyond(self, ordering: Sequence[str]) -> Q:
        condition, equal = Q(), Q()
        for name, value in zip(ordering, self.values, strict=True):
            field = name.removeprefix("-")
            side = "lt" if name.startswith("-") else "gt"
            condition |= equal & Q((f"{field}__{side}", value))
            equal &= Q((field, value))
        return condition & self._bound(ordering)

    def _here(self, ordering: Sequence[str]) -> Q:
        fields = (name.removeprefix("-") for name in ordering)
        return Q(*zip(fields, self.values, strict=True))

    def _bound(self, ordering: Sequence[str]) -> Q:
        # Implied by the rest, but with this the database finds the start in an index.
        side = "lte" if ordering[0].startswith("-") else "gte"
        return Q((f"{ordering[0].removeprefix('-')}__{side}", self.values[0]))


def reverse_of(ordering: Sequence[str]) -> list[str]:
    """Return the opposite order."""
    return [name.removeprefix("-") if name.startswith("-") else f"-{name}" for name in ordering]


def _value(text: object, model: type[Model], name: str) -> Any:
    if not isinstance(text, str) or not (text.isascii() and text.isprintable()):
        raise ValueError(f"{text!r} is not a value of {name}.")
    value = model._meta.get_field(name.removeprefix("-")).to_python(text)  # type: ignore[union-attr]  # no relation is ordered by
    if isinstance(value, dt.datetime):
        if timezone.is_naive(value):
            raise ValueError(f"{text!r} is an instant without an offset.")
        return value.astimezone(dt.UTC)  # OverflowError beyond the calendar
    if value is None:
        raise ValueError(f"{text!r} is not a value of {name}.")
    return value


class KeysetChangeList(ChangeList):
    """A list whose pages begin after the last row of the page before, in one fixed order.

    The page's address carries that row, so it is the same page whatever is added in front.
    """

    model_admin: Any  # a BillingAdmin, which imports this module
    next_position: Position | None = None
    previous_position: Position | None = None
    is_first_page = True
    looked_through: int | None = None
    # Why no row is shown: a filter or the page's address is malformed.
    refusal = ""

    def get_queryset(
        self, request: HttpRequest, exclude_parameters: list[str | None] | None = None
    ) -> QuerySet[Any]:
        self.query = self.query.strip()  # spaces alone search for nothing
        try:
            found = super().get_queryset(request, exclude_parameters)
        except IncorrectLookupParameters as error:
            # Django would redirect to the unfiltered list, whose rows look like the answer.
            self.refusal = str(error)
            self.clear_all_filters_qs = self.get_query_string(remove=self.get_filters_params())
            return self.root_queryset.none()
        # Django says that a NUL is not allowed, but shows all rows, as if nothing were searched.
        return found.none() if "\0" in request.GET.get(SEARCH_VAR, "") else found

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        # In any other order, a page would have to read every row.
        return list(self.model_admin.ordering)

    def get_results(self, request: HttpRequest) -> None:
        ordering = self.get_ordering(request, self.queryset)
        backwards = request.GET.get(PAGE_VAR, "").startswith(BACKWARDS)
        direction = reverse_of(ordering) if backwards else ordering
        position = self.position(request, direction)
        self.is_first_page = position is None
        rows = [] if self.refusal else self.rows(direction, position)
        self.result_list = fitting(rows[: self.list_per_page], self.model_admin.names_of)
        if len(rows) > len(self.result_list):
            self.next_position = Position.of(self.result_list[-1], direction)
            self.looked_through = None
        if backwards:
            self._turn_round()
        elif position:
            self.previous_position = self._first_position(direction)
        self.result_count = self.full_result_count = len(self.result_list)
        self.show_full_result_count = self.can_show_all = self.multi_page = False
        self.show_admin_actions = True
        self.model_admin.prepare(request, self.result_list)

    def _turn_round(self) -> None:
        """Show a page that was read backwards in the order of the list."""
        self.result_list.reverse()
        self.previous_position = self.next_position
        if self.result_list:
            self.next_position = Position.of(self.result_list[-1], self.model_admin.ordering)

    def _first_position(self, ordering: Sequence[str]) -> Position | None:
        """Return where the page before this one ends; without rows, where the search stopped."""
        if not self.result_list:
            return self.next_position
        return Position.of(self.result_list[0], ordering)

    def url_for_result(self, result: Model) -> str:
        return str(self.model_admin.row_url(result))

    def chunks(self, request: HttpRequest, size: int) -> Iterator[list[Any]]:
        """Yield all rows from the first one on, at most `size` at a time."""
        ordering = self.get_ordering(request, self.queryset)
        self.list_per_page, position = size, None
        while True:
            self.next_position = None
            rows = self.rows(ordering, position)
            yield rows[:size]
            if len(rows) > size:
                self.next_position = Position.of(rows[size - 1], ordering)
            if (position := self.next_position) is None:
                return

    @property
    def export_query(self) -> str:
        """The filters and the search of this list, for its export."""
        query = self.get_query_string({SEARCH_VAR: self.query} if self.query else None)
        return "" if query == "?" else query

    def rows(self, ordering: Sequence[str], position: Position | None) -> list[Any]:
        """Return the page's rows, and one more if there is one."""
        queryset = self.queryset.order_by(*ordering)
        if position:
            queryset = queryset.filter(position.after())
        return list(queryset[: self.list_per_page + 1])

    def position(self, request: HttpRequest, ordering: Sequence[str]) -> Position | None:
        text = request.GET.get(PAGE_VAR)
        if not text:
            return None
        try:
            return Position.parse(text.removeprefix(BACKWARDS), self.model, ordering)
        except ValidationError as error:
            self.refusal = error.messages[0]
            return None

    def get_filters_params(self, params: Any = None) -> Any:
        # The form sends its empty fields too.
        given = super().get_filters_params(params)
        return {name: value for name, value in given.items() if any(value)}

    def get_query_string(self, new_params: Any = None, remove: Any = None) -> str:
        empty = [name for name, value in self.params.items() if not value]
        return str(super().get_query_string(new_params, [*(remove or ()), *empty]))

    @property
    def first_query(self) -> str:
        return self.get_query_string()

    @property
    def next_query(self) -> str:
        return self.get_query_string({PAGE_VAR: str(self.next_position)})

    @property
    def previous_query(self) -> str:
        return self.get_query_string({PAGE_VAR: f"{BACKWARDS}{self.previous_position}"})

    @property
    def is_narrowed(self) -> bool:
        """Whether a filter or a search narrows the list."""
        return bool(self.query or self.get_filters_params())

    def summary(self) -> str:
        """Return the number of rows found and their sum, as far as that costs little."""
        return ""
