"""Filters of the lists: the fields of one form, each of which is also a part of the address."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet, Value
from django.http import HttpRequest

from usage.admin import formats
from usage.database.constraints import AmountAtLeast
from usage.models import ApiKey, Bill, Customer
from usage.models.customer import LARGEST_ID
from usage.periods import CLOCK_SKEW, LONGEST_LATENESS, day_bounds
from usage.validators import fit_price, normal_service

_NAMED = 10
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
    """Finds a customer by typing a part of the name, the reference, or the id."""

    customer = forms.ModelChoiceField(
        Customer.objects,
        required=False,
        widget=CustomerSelect(Bill._meta.get_field("customer"), admin.site),
    )


class ListFilter(admin.SimpleListFilter):
    """A field of a list's filter form: typed in, or chosen if it has options."""

    title: str
    parameter_name: str
    # What to write instead of a malformed value; by default, the options.
    expected = ""
    input_type = "text"
    # An index has the rows that this filter keeps, in the order of the list.
    is_indexed = False
    # The condition is on the field by which the list is ordered.
    is_range = False

    # The condition that was applied; empty without a value.
    applied = Q()

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return []

    def has_output(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """The value in the address, without spaces around it."""
        return str(self.value() or "").strip()

    @property
    def options(self) -> Sequence[tuple[str, str]]:
        """The values to choose from, each with its label, beside the one that keeps all rows."""
        return ()

    @property
    def note(self) -> str:
        """The meaning of the value, if that is not plain."""
        return ""

    @property
    def as_option(self) -> str:
        """The value as an option of `manage.py void_records`; empty if it has none for it."""
        return self.text

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.text:
            return queryset
        try:
            self.applied = self.condition(self.text)
        except (ValueError, InvalidOperation, ValidationError) as error:
            values = ", ".join(value for value, _ in self.options)
            expected = self.expected or f"Use {values} or leave it out."
            raise IncorrectLookupParameters(
                f"{self.text!r} is not a {self.title}. {expected}"
            ) from error
        return queryset.filter(self.applied)

    def condition(self, text: str) -> Q:
        """Return the condition for a value.

        Raises ValueError, InvalidOperation or ValidationError if the value is malformed.
        """
        raise NotImplementedError


class CustomerFilter(ListFilter):
    """Shows one customer, found by id or by name."""

    title = "customer"
    parameter_name = "customer"
    is_indexed = True
    found: int | None = None

    def condition(self, text: str) -> Q:
        self.found = number_of(text) or self._named(text)
        return Q(customer=self.found)

    def _named(self, text: str) -> int:
        """Return the one customer with this text in the name; a refusal names the candidates."""
        if "\0" in text:
            raise IncorrectLookupParameters("A name has no NUL in it. Type the name or the id.")
        exact = list(Customer.objects.filter(name__iexact=text)[: _NAMED + 1])
        found = exact or list(Customer.objects.filter(name__icontains=text)[: _NAMED + 1])
        if len(found) == 1:
            return int(found[0].pk)
        if not found:
            raise IncorrectLookupParameters(
                f"No customer has {text!r} in the name. Type another part of it, or the id."
            )
        more = " and more" if len(found) > _NAMED else ""
        names = ", ".join(str(customer) for customer in found[:_NAMED])
        raise IncorrectLookupParameters(
            f"Several customers have {text!r} in the name: {names}{more}. Type the id of one."
        )

    @property
    def as_option(self) -> str:
        return str(self.found)

    @cached_property
    def widget(self) -> str:
        """A box that completes names while one types. It needs JavaScript."""
        form = CustomerChoice({"customer": self.found}, auto_id="filter-%s")
        return str(form["customer"])


class BillFilter(ListFilter):
    """Shows the records of one bill."""

    title = "bill"
    parameter_name = "bill"
    expected = "Write it as 123."
    is_indexed = True

    def condition(self, text: str) -> Q:
        if (number := number_of(text)) is None:
            raise ValueError(f"{text!r} is not an id.")
        return Q(bill=number)

    @property
    def note(self) -> str:
        if (number := number_of(self.text)) is None:
            return ""
        bill = Bill.objects.select_related("customer").filter(pk=number).first()
        return str(bill) if bill else "No such bill"


class ApiKeyFilter(ListFilter):
    """Shows the records of API keys with this id, public prefix or name."""

    title = "API key"
    parameter_name = "reported_by"
    keys: Sequence[ApiKey] = ()

    def condition(self, text: str) -> Q:
        if "\0" in text:
            raise IncorrectLookupParameters("A name has no NUL in it. Type the name of a key.")
        number = number_of(text)
        of_id = ApiKey.objects.filter(pk=number) if number else None
        self.keys = list(of_id or ApiKey.objects.filter(Q(prefix=text) | Q(name__iexact=text)))
        if not self.keys:
            raise IncorrectLookupParameters(
                f"No API key has the id, the public prefix or the name {text!r}."
            )
        return Q(reported_by__in=[api_key.pk for api_key in self.keys])

    @property
    def note(self) -> str:
        return ", ".join(str(api_key) for api_key in self.keys[:3])

    @property
    def as_option(self) -> str:
        return str(self.keys[0].pk) if len(self.keys) == 1 else ""


class ServiceFilter(ListFilter):
    """Shows one service, by its exact name in any Unicode form."""

    title = "service"
    parameter_name = "service"
    expected = "Write it as Storage."

    def condition(self, text: str) -> Q:
        return Q(service=normal_service(text))

    @property
    def as_option(self) -> str:
        return normal_service(self.text)


class PriceFilter(ListFilter):
    """Shows one unit price."""

    title = "unit price"
    parameter_name = "price"
    expected = "Write it as 0.05."

    def condition(self, text: str) -> Q:
        return Q(price_per_unit=fit_price(Decimal(text)))


class AmountFilter(ListFilter):
    """Shows records of at least an amount, in the currencies of their bills."""

    title = "least amount"
    parameter_name = "amount"
    expected = "Write it as 1000.50."

    def condition(self, text: str) -> Q:
        return Q(AmountAtLeast("units", "price_per_unit", Value(str(formats.amount_of(text)))))


class DayFilter(ListFilter):
    """Shows rows of days in the billing time zone."""

    input_type = "date"


class SinceFilter(DayFilter):
    """Shows usage that occurred on a day or later."""

    title = "first day"
    parameter_name = "since"
    expected = "Write it as 2026-11-01."

    def condition(self, text: str) -> Q:
        start = day_bounds(_day(text)).start
        # Implied by the rule that usage is at most 5 minutes ahead; the index is by recorded_at.
        return Q(occurred_at__gte=start, recorded_at__gte=start - CLOCK_SKEW)


class UntilFilter(DayFilter):
    """Shows usage that occurred on a day or earlier."""

    title = "last day"
    parameter_name = "until"
    expected = "Write it as 2026-11-30."

    def condition(self, text: str) -> Q:
        end = day_bounds(_day(text)).end
        # Usage is reported within 366 days. Its void may be recorded at any time after that.
        recorded = Q(recorded_at__lt=end + LONGEST_LATENESS) | Q(voids__isnull=False)
        return Q(occurred_at__lt=end) & recorded


class RecordedSinceFilter(DayFilter):
    """Shows records that were recorded on a day or later."""

    title = "first day of recording"
    parameter_name = "recorded_since"
    expected = "Write it as 2026-11-01."
    is_range = True

    def condition(self, text: str) -> Q:
        return Q(recorded_at__gte=day_bounds(_day(text)).start)


class RecordedUntilFilter(DayFilter):
    """Shows records that were recorded on a day or earlier."""

    title = "last day of recording"
    parameter_name = "recorded_until"
    expected = "Write it as 2026-11-30."
    is_range = True

    def condition(self, text: str) -> Q:
        return Q(recorded_at__lt=day_bounds(_day(text)).end)


def _day(text: str) -> dt.date:
    day = dt.date.fromisoformat(text)
    if text != day.isoformat():  # such as 20261101, which the box for the day cannot show
        raise ValueError(f"{text} is not written as YYYY-MM-DD.")
    if not 1900 <= day.year <= 9000:
        raise ValueError(f"{day} is too far away to count days from it.")
    return day


class LateFilter(ListFilter):
    """Shows records whose usage occurred before their bill's period."""

    title = "lateness"
    parameter_name = "late"
    options = (("1", "Late usage"),)
    is_indexed = True

    def condition(self, text: str) -> Q:
        if text != "1":
            raise ValueError(f"{text!r} is not a lateness.")
        return Q(late=True)


class VoidsFilter(ListFilter):
    """Shows voids, records that were voided, or neither."""

    title = "kind"
    parameter_name = "voids"
    options = (("1", "Voids"), ("voided", "Voided records"), ("none", "Not voided, no voids"))

    @property
    def is_indexed(self) -> bool:  # type: ignore[override]  # depends on the value
        return self.text == "1"

    def condition(self, text: str) -> Q:
        match text:
            case "1":
                return Q(voids__isnull=False)
            case "voided":
                return Q(is_voided=True)
            case "none":
                return Q(is_voided=False, voids__isnull=True)
        raise ValueError(f"{text!r} is not a kind of record.")
