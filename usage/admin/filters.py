"""Filters that an index serves, and that need no select box of all customers."""

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
from django.utils import timezone

from usage.database.transactions import database_now
from usage.models import ApiKey, Bill, Customer
from usage.models.customer import LARGEST_ID
from usage.periods import CLOCK_SKEW, LONGEST_LATENESS, Period, previous_month
from usage.validators import fit_price

_MONTHS_SHOWN = 24


class CustomerSelect(AutocompleteSelect):
    """Django's own, with words where it shows nothing yet, which is what names it when read out."""

    class Media:
        js = ["usage/select.js"]

    def build_attrs(
        self, base_attrs: dict[str, Any], extra_attrs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        attrs = super().build_attrs(base_attrs, extra_attrs)
        return attrs | {"data-placeholder": "Customer's name or id", "aria-label": "Customer"}


class CustomerChoice(forms.Form):
    """Finds one of many customers by typing a part of the name, or the id."""

    customer = forms.ModelChoiceField(
        Customer.objects,
        required=False,
        label="Customer",
        widget=CustomerSelect(Bill._meta.get_field("customer"), admin.site),
    )


class IdFilter(admin.SimpleListFilter):
    """A filter by a key, which is a whole number."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return []

    def has_output(self) -> bool:
        return True

    @property
    def id(self) -> int | None:
        """The id asked for, if it is one."""
        text = self.value() or ""
        is_id = text.isascii() and text.isdecimal() and 1 <= int(text[:20]) <= LARGEST_ID
        return int(text) if is_id else None

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not (text := self.value()):
            return queryset
        if self.id is None:
            raise IncorrectLookupParameters(f"{text!r} is no {self.title}'s id such as 123.")
        return queryset.filter((self.parameter_name, self.id))


class CustomerFilter(IdFilter):
    """Keeps to one customer, found by autocomplete."""

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


class BillFilter(IdFilter):
    """Keeps to one bill, which a link from elsewhere names."""

    title = "bill"
    parameter_name = "bill"

    def has_output(self) -> bool:
        return bool(self.value())

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        query = changelist.get_query_string(remove=[self.parameter_name])
        yield {"selected": False, "query_string": query, "display": "All"}
        bill = Bill.objects.select_related("customer").filter(pk=self.id or 0).first()
        query = changelist.get_query_string({self.parameter_name: self.id})
        yield {"selected": True, "query_string": query, "display": bill or "No such bill"}


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
            sentence = f"{text!r} is no {self.title} such as {self.example}."
            raise IncorrectLookupParameters(sentence) from error

    def condition(self, text: str) -> Q:
        """Return what is asked for; raises ValueError if that is malformed."""
        raise NotImplementedError


class ServiceFilter(InputFilter):
    """Keeps to one service, by its exact name."""

    title = "service"
    parameter_name = "service"
    example = "Storage"

    def condition(self, text: str) -> Q:
        if "\0" in text:
            raise ValueError("PostgreSQL takes no text with a NUL in it.")
        return Q(service=text)


class PriceFilter(InputFilter):
    """Keeps to one unit price."""

    title = "unit price"
    parameter_name = "price"
    example = "0.05"

    def condition(self, text: str) -> Q:
        try:
            return Q(price_per_unit=fit_price(Decimal(text)))
        except (InvalidOperation, ValidationError) as error:
            raise ValueError(f"{text!r} is no unit price.") from error


class KeyFilter(IdFilter):
    """Keeps to what one API key reported, which a link from its page names."""

    title = "API key"
    parameter_name = "reported_by"

    def has_output(self) -> bool:
        return bool(self.value())

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        query = changelist.get_query_string(remove=[self.parameter_name])
        yield {"selected": False, "query_string": query, "display": "All"}
        api_key = ApiKey.objects.filter(pk=self.id or 0).first()
        query = changelist.get_query_string({self.parameter_name: self.id})
        yield {"selected": True, "query_string": query, "display": api_key or "No such key"}


class SinceFilter(InputFilter):
    """Keeps to usage that occurred on a day, or after it, in the billing time zone."""

    title = "first day"
    parameter_name = "since"
    input_type = "date"
    example = "2026-11-01"

    def condition(self, text: str) -> Q:
        start = day_bounds(dt.date.fromisoformat(text)).start
        # Nothing is recorded long before it occurs, and the lists are in the order of recording.
        return Q(occurred_at__gte=start, recorded_at__gte=start - CLOCK_SKEW)


class UntilFilter(InputFilter):
    """Keeps to usage that occurred on a day, or before it, in the billing time zone."""

    title = "last day"
    parameter_name = "until"
    input_type = "date"
    example = "2026-11-30"

    def condition(self, text: str) -> Q:
        end = day_bounds(dt.date.fromisoformat(text)).end
        return Q(occurred_at__lt=end, recorded_at__lt=end + LONGEST_LATENESS)


def day_bounds(day: dt.date) -> Period:
    """Return the instants at which a day begins and ends in the billing time zone.

    Raises ValueError for a day so far away that what is counted from it would have no date.
    """
    if not 1900 <= day.year <= 9000:
        raise ValueError(f"{day} is too far away.")
    start, end = (
        dt.datetime.combine(date, dt.time(), timezone.get_default_timezone()).astimezone(dt.UTC)
        for date in (day, day + dt.timedelta(days=1))
    )
    return Period(start, end)


class MonthFilter(admin.SimpleListFilter):
    """Keeps to the bills of one month."""

    title = "month"
    parameter_name = "month"

    def has_output(self) -> bool:
        return True  # also without bills: a filter without output is not asked

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
            raise IncorrectLookupParameters(f"{text!r} is no month such as 2026-11.") from error
        return queryset.filter(month=month)


class StateFilter(admin.SimpleListFilter):
    """Keeps to open, overdue or closed bills."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Open"), ("overdue", "Overdue"), ("closed", "Closed")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        match self.value():
            case None:
                return queryset
            case "open":
                return queryset.open()
            case "overdue":
                return queryset.due(database_now())
            case "closed":
                return queryset.closed()
        raise IncorrectLookupParameters(f"{self.value()!r} is no state of a bill such as open.")


class OnlyFilter(admin.SimpleListFilter):
    """Keeps to the rows that have something particular, or shows all."""

    only: str
    condition: Q

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", self.only)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() is None:
            return queryset
        if self.value() != "1":
            raise IncorrectLookupParameters(f"{self.parameter_name} is 1 or not given.")
        return queryset.filter(self.condition)


class LateFilter(OnlyFilter):
    """Keeps to the records whose usage occurred before their bill's period."""

    title = "lateness"
    parameter_name = "late"
    only = "Late usage"
    condition = Q(late=True)


class VoidsFilter(OnlyFilter):
    """Keeps to the records that cancel others."""

    title = "kind"
    parameter_name = "voids"
    only = "Voids"
    condition = Q(voids__isnull=False)
