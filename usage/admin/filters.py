"""Filters of the lists. None needs a select box of all customers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from usage.database.transactions import database_now
from usage.models import ApiKey, Bill, Customer
from usage.models.customer import LARGEST_ID
from usage.periods import CLOCK_SKEW, LONGEST_LATENESS, day_bounds, previous_month
from usage.validators import fit_price

_MONTHS_SHOWN = 24
_LONGEST_ID = len(str(LARGEST_ID))


def number_of(text: str) -> int | None:
    """Return a text that was typed in, or is in an address, as an id, if it can be one."""
    text = text.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_ID):
        return None
    return int(text) if 1 <= int(text) <= LARGEST_ID else None


class CustomerSelect(AutocompleteSelect):
    """Django's own, with a placeholder and a name for screen readers."""

    class Media:
        js = ["usage/select.js"]

    def build_attrs(
        self, base_attrs: dict[str, Any], extra_attrs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        attrs = super().build_attrs(base_attrs, extra_attrs)
        return attrs | {"data-placeholder": "Customer's name or id", "aria-label": "Customer"}


class CustomerChoice(forms.Form):
    """Finds a customer by typing a part of the name, or the id."""

    customer = forms.ModelChoiceField(
        Customer.objects,
        required=False,
        label="Customer",
        widget=CustomerSelect(Bill._meta.get_field("customer"), admin.site),
    )


class IdFilter(admin.SimpleListFilter):
    """A filter by the id of a row, a whole number."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return []

    def has_output(self) -> bool:
        return True

    @property
    def id(self) -> int | None:
        """The id in the address, if it is one."""
        return number_of(self.value() or "")

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not (text := self.value()):
            return queryset
        if self.id is None:
            raise IncorrectLookupParameters(
                f"{text!r} is not a valid {self.title} id. Use a number such as 123."
            )
        return queryset.filter((self.parameter_name, self.id))


class CustomerFilter(IdFilter):
    """Shows one customer, found by autocomplete."""

    title = "customer"
    parameter_name = "customer"
    template = "usage/admin/customer_filter.html"

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        others = {
            name: value for name, value in changelist.params.items() if name != self.parameter_name
        }
        yield {
            "form": CustomerChoice({"customer": self.id}, auto_id="filter_%s"),
            "others": others.items(),
            "selected": self.id is not None,
            "all": changelist.get_query_string(remove=[self.parameter_name]),
        }


class LinkedFilter(IdFilter):
    """Shows one row's records; a link on the page of that row sets it."""

    parameter_name: str
    rows: Any

    def has_output(self) -> bool:
        return bool(self.value())

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        query = changelist.get_query_string(remove=[self.parameter_name])
        yield {"selected": False, "query_string": query, "display": "All"}
        row = self.rows.filter(pk=self.id or 0).first()
        query = changelist.get_query_string({self.parameter_name: self.id})
        yield {"selected": True, "query_string": query, "display": row or f"No such {self.title}"}


class BillFilter(LinkedFilter):
    """Shows the records of one bill."""

    title = "bill"
    parameter_name = "bill"
    rows = Bill.objects.select_related("customer")


class ApiKeyFilter(LinkedFilter):
    """Shows the records that one API key reported."""

    title = "API key"
    parameter_name = "reported_by"
    rows = ApiKey.objects.all()


class InputFilter(admin.SimpleListFilter):
    """A filter whose value is typed in."""

    template = "usage/admin/input_filter.html"
    input_type = "text"
    example: str

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return []

    def has_output(self) -> bool:
        return True

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        others = {
            name: value for name, value in changelist.params.items() if name != self.parameter_name
        }
        yield {
            "name": self.parameter_name,
            "type": self.input_type,
            "value": self.value() or "",
            "others": others.items(),
            "all": changelist.get_query_string(remove=[str(self.parameter_name)]),
        }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        text = (self.value() or "").strip()
        try:
            return queryset.filter(self.condition(text)) if text else queryset
        except ValueError as error:
            sentence = f"{text!r} is not a {self.title}. Write it as {self.example}."
            raise IncorrectLookupParameters(sentence) from error

    def condition(self, text: str) -> Q:
        """Return the condition for the text typed in; raises ValueError if it is malformed."""
        raise NotImplementedError


class ServiceFilter(InputFilter):
    """Shows one service, by its exact name."""

    title = "service"
    parameter_name = "service"
    example = "Storage"

    def condition(self, text: str) -> Q:
        if "\0" in text:
            raise ValueError("PostgreSQL refuses text with a NUL in it.")
        return Q(service=text)


class PriceFilter(InputFilter):
    """Shows one unit price."""

    title = "unit price"
    parameter_name = "price"
    example = "0.05"

    def condition(self, text: str) -> Q:
        try:
            return Q(price_per_unit=fit_price(Decimal(text)))
        except (InvalidOperation, ValidationError) as error:
            raise ValueError(f"{text!r} is not a unit price.") from error


class SinceFilter(InputFilter):
    """Shows usage that occurred on a day or later, in the billing time zone."""

    title = "first day"
    parameter_name = "since"
    input_type = "date"
    example = "2026-11-01"

    def condition(self, text: str) -> Q:
        start = day_bounds(_day(text)).start
        # Implied by the rule that usage is at most 5 minutes ahead; the index is by recorded_at.
        return Q(occurred_at__gte=start, recorded_at__gte=start - CLOCK_SKEW)


class UntilFilter(InputFilter):
    """Shows usage that occurred on a day or earlier, in the billing time zone."""

    title = "last day"
    parameter_name = "until"
    input_type = "date"
    example = "2026-11-30"

    def condition(self, text: str) -> Q:
        end = day_bounds(_day(text)).end
        return Q(occurred_at__lt=end, recorded_at__lt=end + LONGEST_LATENESS)


def _day(text: str) -> dt.date:
    day = dt.date.fromisoformat(text)
    if not 1900 <= day.year <= 9000:
        raise ValueError(f"{day} is too far away to count days from it.")
    return day


class MonthFilter(admin.SimpleListFilter):
    """Shows the bills of one month."""

    title = "month"
    parameter_name = "month"

    def has_output(self) -> bool:
        return True  # even without bills, or Django would ignore the filter

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        month = Bill.objects.order_by("-month").values_list("month", flat=True).first()
        oldest = Bill.objects.order_by("month").values_list("month", flat=True).first()
        months: list[tuple[str, str]] = []
        while month and oldest and month >= oldest and len(months) < _MONTHS_SHOWN:
            months.append((f"{month:%Y-%m}", f"{month:%B %Y}"))
            month = previous_month(month)
        return months

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not (text := self.value()):
            return queryset
        try:
            month = dt.date.fromisoformat(f"{text}-01")
        except ValueError as error:
            raise IncorrectLookupParameters(f"{text!r} is not a month. Use YYYY-MM.") from error
        return queryset.filter(month=month)


class StateFilter(admin.SimpleListFilter):
    """Shows open, due, held or closed bills."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("open", "Open"),
            ("due", "Due to close"),
            ("held", "On hold"),
            ("closed", "Closed"),
        ]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case None:
                return queryset
            case "open":
                return queryset.open()
            case "due":
                return queryset.due(database_now())
            case "held":
                return queryset.filter(hold__isnull=False)
            case "closed":
                return queryset.closed()
        raise IncorrectLookupParameters(
            f"{self.value()!r} is not a state. Use open, due, held or closed."
        )


class OnlyFilter(admin.SimpleListFilter):
    """Shows only the rows that meet a condition, or all."""

    only: str
    condition: Q

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", self.only)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() is None:
            return queryset
        if self.value() != "1":
            raise IncorrectLookupParameters(
                f"{self.value()!r} is not a value of {self.parameter_name}. Use 1 or leave it out."
            )
        return queryset.filter(self.condition)


class LateFilter(OnlyFilter):
    """Shows records whose usage occurred before their bill's period."""

    title = "lateness"
    parameter_name = "late"
    only = "Late usage"
    condition = Q(late=True)


class VoidsFilter(OnlyFilter):
    """Shows records that cancel others."""

    title = "kind"
    parameter_name = "voids"
    only = "Voids"
    condition = Q(voids__isnull=False)
