"""Bills: staff read them, and close one by an action of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import URLPattern, path
from django.utils.safestring import SafeString

from usage.admin import formats
from usage.admin.actions import Action
from usage.admin.bill_page import BillPage, period_of, state_of
from usage.admin.customers import matching
from usage.admin.filters import CustomerChoice, CustomerFilter, MonthFilter, StateFilter
from usage.admin.pages import ReadOnlyAdmin
from usage.models import Bill, Customer
from usage.models.bill import total_of
from usage.periods import is_open_to_usage
from usage.transactions import database_now

_MOST_CUSTOMERS_FOUND = 1000


class Close(Action):
    """Closes a bill."""

    template = "usage/admin/bill_close.html"
    title = "Close this bill?"
    row: Bill

    def refusal(self) -> str:
        if self.row.is_closed:
            return "The bill is closed already; nothing more can happen to it."
        if database_now() <= self.row.period_start:
            return "The bill's period has not begun: close it after that."
        return ""

    def context(self) -> dict[str, Any]:
        now = database_now()
        return {
            "customer": formats.customer(self.row.customer),
            "month": f"{self.row.month:%B %Y}",
            "total": formats.money(self.row.total, self.row.customer.currency),
            "ends_early": now < self.row.period_end,
            "month_open": is_open_to_usage(self.row.month, now),
        }

    def act(self, data: dict[str, Any]) -> None:
        if not self.row.close():
            messages.info(self.request, "The bill was closed already; nothing was changed.")
            return
        total = formats.money(self.row.total, self.row.customer.currency)
        self.log(self.row, f"Closed at {total}.")
        messages.success(self.request, f"The bill is closed. Its total is {total}.")


@admin.register(Bill)
class BillAdmin(ReadOnlyAdmin):
    """A bill's page shows its lines and latest records; the list, a page's totals at once."""

    list_display = ("customer_name", "month_name", "state", "total")
    list_filter = (StateFilter, CustomerFilter, MonthFilter)
    list_select_related = ("customer",)
    search_fields = ("customer__name",)
    search_help_text = "A part of the customer's name, or the customer id"
    ordering = ("-month", "customer_id", "-period_start")
    page_template = "usage/admin/bill.html"

    @property
    def media(self) -> Any:
        return super().media + CustomerChoice().media

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("customer")

    def get_urls(self) -> list[URLPattern]:
        close = self.admin_site.admin_view(Close.as_view(model_admin=self))
        return [
            path("<path:object_id>/close/", close, name="usage_bill_close"),
            *super().get_urls(),
        ]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not (term := search_term.strip()):
            return queryset, False
        found = Customer.objects.filter(matching(term)).values("pk")[:_MOST_CUSTOMERS_FOUND]
        return queryset.filter(customer__in=found), False

    def prepare(self, request: HttpRequest, rows: Sequence[Any]) -> None:
        bills = Bill.objects.filter(pk__in=[bill.pk for bill in rows])
        lines = bills.open().lines()
        overdue = set(bills.due(database_now()).values_list("pk", flat=True))
        for bill in rows:
            bill.shown_state = state_of(bill, overdue=bill.pk in overdue)
            total = bill.total if bill.is_closed else total_of(lines.get(bill.pk, []))
            bill.shown_total = formats.money(total, bill.customer.currency)

    @admin.display(description="customer")
    def customer_name(self, bill: Bill) -> SafeString:
        return formats.customer(bill.customer)

    @admin.display(description="month")
    def month_name(self, bill: Bill) -> str:
        return period_of(bill)

    @admin.display(description="state")
    def state(self, bill: Any) -> Any:
        return bill.shown_state

    @admin.display(description="total")
    def total(self, bill: Any) -> Any:
        return bill.shown_total

    def page_context(self, request: HttpRequest, row: Bill) -> dict[str, Any]:
        return BillPage(row).context()
