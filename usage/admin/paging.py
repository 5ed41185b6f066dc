"""Keyset pagination: a page costs the same wherever it is in the list. No counts, no offsets."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import PAGE_VAR, SEARCH_VAR, ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Page, Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import escape

from usage.models.customer import LARGEST_ID

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


class UncountedPaginator(Paginator):  # type: ignore[type-arg]  # generic only in the stubs
    """Pages of Django's autocomplete, by a bounded OFFSET and without a count."""

    num_pages = 20
    default_error_messages = {
        "invalid_page": "That page number is not an integer.",
        "min_page": "Pages go from 1 to 20. Narrow your search.",
        "no_results": "Pages go from 1 to 20. Narrow your search.",
    }

    def page(self, number: Any) -> Page[Any]:
        number = self.validate_number(number)
        start = (number - 1) * self.per_page
        rows = list(self.object_list[start : start + self.per_page + 1])
        if len(rows) <= self.per_page:
            self.num_pages = number  # the page is the last one
        return Page(rows[: self.per_page], number, self)


class Position(NamedTuple):
    """A place in an ordered list: the values a row there has in the fields it is ordered by."""

    ordering: Sequence[str]
    values: Sequence[Any]

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
        fields = (name.removeprefix("-") for name in self.ordering)
        here = Q(*zip(fields, self.values, strict=True))
        return self._beyond(reverse_of(self.ordering)) | here

    def _beyond(self, ordering: Sequence[str]) -> Q:
        condition, equal = Q(), Q()
        for name, value in zip(ordering, self.values, strict=True):
            field = name.removeprefix("-")
            side = "lt" if name.startswith("-") else "gt"
            condition |= equal & Q((f"{field}__{side}", value))
            equal &= Q((field, value))
        # Implied by the rest, but with this the database finds the start in an index.
        side = "lte" if ordering[0].startswith("-") else "gte"
        return condition & Q((f"{ordering[0].removeprefix('-')}__{side}", self.values[0]))


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
    if isinstance(value, int) and abs(value) > LARGEST_ID:
        raise ValueError(f"{value} is not an id.")  # SQLite cannot compare with it
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
            self.result_list.reverse()
            self.previous_position = self.next_position
            if self.result_list:
                self.next_position = Position.of(self.result_list[-1], ordering)
        elif position:
            self.previous_position = self.next_position  # where the search for rows stopped
            if self.result_list:
                self.previous_position = Position.of(self.result_list[0], ordering)
        self.result_count = self.full_result_count = len(self.result_list)
        self.model_admin.prepare(request, self.result_list)

    def url_for_result(self, result: Model) -> str:
        return str(self.model_admin.row_url(result))

    def all_rows(self, request: HttpRequest, size: int) -> Iterator[Any]:
        """Yield all rows from the first one on, prepared `size` at a time."""
        ordering = self.get_ordering(request, self.queryset)
        self.list_per_page, position = size, None
        while True:
            self.next_position = None
            rows = self.rows(ordering, position)
            self.model_admin.prepare(request, rows[:size])
            yield from rows[:size]
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
