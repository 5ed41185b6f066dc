"""Customers: staff add and rename them; nobody deletes them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from usage.admin import formats
from usage.admin.pages import BillingAdmin
from usage.models import Customer
from usage.models.customer import LARGEST_ID


def matching(term: str) -> Q:
    """Match the customers with this id, or with this text in the name."""
    condition = Q(name__icontains=term)
    if term.isascii() and term.isdecimal() and int(term[:20]) <= LARGEST_ID:
        condition |= Q(pk=int(term))
    return condition


@admin.register(Customer)
class CustomerAdmin(BillingAdmin):
    """The id is the company's own and stays; the currency stays once there is a bill."""

    list_display = ("id", "shown_name", "currency", "bills")
    list_display_links = ("id", "shown_name")
    search_fields = ("name",)
    search_help_text = "A part of the name, or the customer id"
    fields = ("id", "name", "currency")
    ordering = ("id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        return (queryset.filter(matching(term)) if term else queryset), False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.fields, "bills") if obj else self.fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ()
        billed = obj.bills.exists()
        return ("id", "bills", "currency") if billed else ("id", "bills")

    def save_model(self, request: HttpRequest, obj: Any, form: ModelForm[Any], change: Any) -> None:
        # Saved the usual way, a new customer would overwrite one that was added meanwhile.
        obj.save(force_insert=not change)

    @admin.display(description="name")
    def shown_name(self, customer: Customer) -> SafeString:
        return formats.name(customer.name)

    @admin.display(description="bills")
    def bills(self, customer: Customer) -> SafeString:
        url = reverse("admin:usage_bill_changelist", query={"customer": customer.pk})
        return format_html('<a href="{}">Bills</a>', url)
