"""Customers: staff add and rename them. They are never deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from usage.admin import formats
from usage.admin.pages import BillingAdmin
from usage.admin.rows import bill_cells
from usage.database.transactions import database_now
from usage.models import Bill, Customer, DailyUsage
from usage.models.customer import LARGEST_ID
from usage.periods import month_of

_BILLS_SHOWN = 12


def matching(term: str) -> Q:
    """Match the customers with this id, or with this text in the name."""
    condition = Q(name__icontains=term)
    if (number := number_of(term)) is not None:
        condition |= Q(pk=number)
    return condition


def number_of(term: str) -> int | None:
    """Return the search term as an id, if it can be one."""
    is_id = term.isascii() and term.isdecimal() and int(term[:20]) <= LARGEST_ID
    return int(term) if is_id else None


class CustomerForm(ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    """A customer's name, and the currency until there is a bill."""

    def clean(self) -> dict[str, Any] | None:
        # If the first bill was opened after the form was, the form no longer has this field, and
        # the value sent would be dropped silently.
        sent = self.data.get(self.add_prefix("currency"), self.instance.currency)
        if "currency" not in self.fields and sent != self.instance.currency:
            raise ValidationError("The currency cannot change: the customer has a bill.")
        return super().clean()


@admin.register(Customer)
class CustomerAdmin(BillingAdmin):
    """The id never changes; the currency is fixed once the customer has a bill."""

    form = CustomerForm
    list_display = ("id", "shown_name", "currency", "total", "bills")
    list_display_links = ("id", "shown_name")
    search_fields = ("name",)
    search_help_text = "A part of the name, or the customer id"
    fields = ("id", "name", "currency")
    ordering = ("id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if "\0" in term:  # PostgreSQL refuses it; the list does too, but the autocomplete does not
            return queryset.none(), False
        return (queryset.filter(matching(term)) if term else queryset), False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.fields, "latest_bills") if obj else self.fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ()
        billed = obj.bills.exists()
        return ("id", "latest_bills", "currency") if billed else ("id", "latest_bills")

    def names_of(self, row: Customer) -> Sequence[str]:
        return (row.name,)

    def prepare(self, request: HttpRequest, rows: Sequence[Any]) -> None:
        current = Bill.objects.open().filter(customer__in=rows, month=month_of(database_now()))
        totals = DailyUsage.objects.totals_of(current)
        shown = {
            bill.customer_id: formats.money(totals[bill.pk], bill.currency) for bill in current
        }
        for customer in rows:
            customer.shown_total = shown.get(customer.pk, "–")

    def save_model(self, request: HttpRequest, obj: Any, form: ModelForm[Any], change: Any) -> None:
        # A plain save would overwrite a customer that was added meanwhile under the same id.
        obj.save(force_insert=not change)

    @admin.display(description="name")
    def shown_name(self, customer: Customer) -> SafeString:
        return formats.name(customer.name)

    @admin.display(description="current bill")
    def total(self, customer: Any) -> Any:
        return customer.shown_total

    @admin.display(description="latest bills")
    def latest_bills(self, customer: Customer) -> SafeString:
        """Return the latest bills with their totals, and a link to all."""
        bills = list(customer.bills.order_by("-period_start")[:_BILLS_SHOWN])
        rows = (
            (cells.url, cells.period, cells.state, cells.total)
            for cells in bill_cells(bills, database_now())
        )
        listed = format_html_join(
            "", '<li><a href="{}">{}</a> {} <span class="figure">{}</span></li>', rows
        )
        return format_html('<ul class="bills">{}</ul>{}', listed, self.bills(customer))

    @admin.display(description="bills")
    def bills(self, customer: Customer) -> SafeString:
        url = reverse("admin:usage_bill_changelist", query={"customer": customer.pk})
        return format_html('<a href="{}">All bills</a>', url)
