"""Customers: staff add and change them. They are never deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, QueryDict
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from usage.admin import formats
from usage.admin.changes import WithHistory
from usage.admin.filters import number_of
from usage.admin.rows import bill_cells
from usage.database.names import normal
from usage.database.transactions import database_now
from usage.models import Bill, Change, Customer, DailyUsage
from usage.periods import month_of
from usage.validators import REASON_LENGTH

_BILLS_SHOWN = 12
# The fields that a form may change.
_CHANGED = ("name", "reference", "currency")


def matching(term: str) -> Q:
    """Match the customers with this id, or with this text in the name or the reference."""
    condition = Q(name__icontains=term) | Q(reference__icontains=term)
    if (number := number_of(term)) is not None:
        condition |= Q(pk=number)
    return condition


class CustomerForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    """A customer's name and reference, and the currency until there is a bill.

    It carries the values it was opened with, so that a stale form changes only what its user did.
    """

    reason = forms.CharField(
        required=False,
        max_length=REASON_LENGTH,
        help_text="Needed to change the currency. Kept in the customer's history.",
    )
    is_another = forms.BooleanField(
        required=False,
        label="This is another customer of the same name",
        widget=forms.HiddenInput,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None:
            for name in self.fields.keys() & set(_CHANGED):
                self.fields[name].show_hidden_initial = True

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        # If the first bill was opened after the form was, the form no longer has this field, and
        # the value sent would be dropped silently.
        sent = self.data.get(self.add_prefix("currency"), self.instance.currency)
        if "currency" not in self.fields and sent != self.instance.currency:
            raise ValidationError("The currency cannot change: the customer has a bill.")
        if self.instance.pk is not None:
            self._keep_what_others_changed(cleaned)
            currency = cleaned.get("currency", self.instance.currency)
            if currency != self.instance.currency and not cleaned.get("reason"):
                self.add_error("reason", "Give the reason for changing the currency.")
        name = cleaned.get("name")
        is_new = name and (self.instance.pk is None or name != self.instance.name)
        others = Customer.objects.filter(name__iexact=name).exclude(pk=self.instance.pk)
        if is_new and not cleaned.get("is_another") and (other := others.first()):
            self.fields["is_another"].widget = forms.CheckboxInput()
            self.add_error(
                "name",
                f"Customer {other.pk} has this name too. If this is another customer, tick the box"
                " below and save again.",
            )
        return cleaned

    def _keep_what_others_changed(self, cleaned: dict[str, Any]) -> None:
        """Take the stored value where the user changed nothing; refuse where both changed it."""
        for name in self.fields.keys() & set(_CHANGED) & cleaned.keys():
            initial_name = self.add_initial_prefix(name)
            stored = getattr(self.instance, name)
            opened_with = normal(self.data.get(initial_name, stored))
            if opened_with == stored or cleaned[name] == stored:
                continue
            if cleaned[name] == opened_with:
                cleaned[name] = stored
                continue
            # Sent again, the form is about the value that it shows now.
            data = cast("QueryDict", self.data).copy()
            data[initial_name] = stored
            self.data = data
            self.add_error(
                name,
                f"The {name} was changed to {stored!r} after this form was opened. Check it, then"
                " save again.",
            )


@admin.register(Customer)
class CustomerAdmin(WithHistory):
    """The id never changes; the currency is fixed once the customer has a bill."""

    form = CustomerForm
    list_display = ("id", "shown_name", "reference", "currency", "total", "bills")
    list_display_links = ("id", "shown_name")
    search_fields = ("name",)
    search_help_text = "A part of the name or of the reference, or the customer id"
    ordering = ("id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if "\0" in term:  # PostgreSQL refuses it; the list does too, but the autocomplete does not
            return queryset.none(), False
        return (queryset.filter(matching(term)) if term else queryset), False

    def get_list_display(self, request: HttpRequest) -> Any:
        if request.user.has_perm("usage.view_bill"):
            return self.list_display
        return [name for name in self.list_display if name not in {"total", "bills"}]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ("id", "name", "is_another", "reference", "currency")
        bills = ("latest_bills",) if request.user.has_perm("usage.view_bill") else ()
        if not self.has_change_permission(request, obj):
            return ("id", *_CHANGED, *bills)
        # The currency of a customer with bills cannot change, so no reason is asked for.
        reason = () if obj.bills.exists() else ("reason",)
        return ("id", "name", "is_another", "reference", "currency", *reason, *bills)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ()
        billed = obj.bills.exists()
        return ("id", "latest_bills", "currency") if billed else ("id", "latest_bills")

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Customer | None:
        found: Customer | None = super().get_object(request, object_id, from_field)
        if found is None or request.method != "POST":
            return found
        # Locked until the form is saved: two forms sent at once would each compare their values
        # with a customer that the other is about to change.
        return Customer.objects.select_for_update(no_key=True).get(pk=found.pk)

    def names_of(self, row: Customer) -> Sequence[str]:
        return (row.name, row.reference)

    def prepare(self, request: HttpRequest, rows: Sequence[Any]) -> None:
        current = Bill.objects.open().filter(customer__in=rows, month=month_of(database_now()))
        totals = DailyUsage.objects.totals_of(current)
        shown = {
            bill.customer_id: formats.money(totals[bill.pk], bill.currency) for bill in current
        }
        for customer in rows:
            customer.shown_total = shown.get(customer.pk, "–")

    def save_model(
        self, request: HttpRequest, obj: Any, form: forms.ModelForm[Any], change: Any
    ) -> None:
        stored = Customer.objects.get(pk=obj.pk) if change else None
        row, action, values = obj.changes_from(stored)
        if not values:
            return
        if stored is None:
            # A plain save would overwrite a customer that was added meanwhile under the same id.
            obj.save(force_insert=True)
        else:
            obj.save(update_fields=[value.field for value in values])
        Change.objects.keep(
            row,
            action,
            by=request.user,
            values=values,
            reason=form.cleaned_data.get("reason", ""),
        )

    @admin.display(description="name")
    def shown_name(self, customer: Customer) -> SafeString:
        return formats.name(customer.name)

    @admin.display(description="current bill")
    def total(self, customer: Any) -> Any:
        return customer.shown_total

    @admin.display(description="latest bills")
    def latest_bills(self, customer: Customer) -> SafeString:
        """Return the latest bills with their totals, and a link to all."""
        bills = list(customer.bills.select_related("hold").order_by("-period_start")[:_BILLS_SHOWN])
        listed = format_html_join(
            "",
            '<li><a href="{url}">{period}</a> {state} <span class="figure">{total}</span></li>',
            bill_cells(bills, database_now()),
        )
        return format_html('<ul class="bills">{}</ul>{}', listed, self.bills(customer))

    @admin.display(description="bills")
    def bills(self, customer: Customer) -> SafeString:
        url = reverse("admin:usage_bill_changelist", query={"customer": customer.pk})
        return format_html('<a href="{}">All bills</a>', url)
