"""Bills: staff read, verify and close them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseBase

from usage.admin import exports, formats
from usage.admin.actions import ConfirmedAct
from usage.admin.attention import AcceptDuplicates, AttentionPage, LiftAcceptance
from usage.admin.bill_filters import (
    LeastTotalFilter,
    MonthFilter,
    MostTotalFilter,
    StateFilter,
)
from usage.admin.bill_list import BillChangeList
from usage.admin.bill_page import BillPage
from usage.admin.bulk_closing import ToClose
from usage.admin.closing import CloseBill, HoldBill, ReleaseBill
from usage.admin.customers import matching
from usage.admin.filters import CustomerChoice, CustomerFilter, number_of
from usage.admin.hand_over import ClosedFile, ControlFile, HandOver
from usage.admin.pages import OwnPage, ReadOnlyAdmin, column
from usage.admin.rows import bill_cells, period_of
from usage.admin.statement import Statement
from usage.database import deadline
from usage.database.transactions import database_now
from usage.models import Bill, Customer, HistoryEntry
from usage.verification import Verification, counted

# These take a few seconds on either database; the server allows a page thirty.
MOST_RECORDS_VERIFIED = 500_000
MOST_DIFFERENCES_SHOWN = 20


class VerifyBill(ConfirmedAct):
    """Computes a bill again from its records, in one snapshot."""

    template = "usage/admin/bill_verify.html"
    title = "Verify this bill?"
    verb = "Verify the bill"
    row: Bill

    def may_act(self) -> bool:
        return True

    def context(self) -> dict[str, Any]:
        return {"records": formats.number(self._records())}

    def refusal(self) -> str:
        if self._records() <= MOST_RECORDS_VERIFIED:
            return ""
        return (
            f"The bill has more than {MOST_RECORDS_VERIFIED:,} records, too many to verify"
            f" on a page. Run `manage.py verify_bills --bill {self.row.pk}` instead."
        )

    def _records(self) -> int:
        return sum(line.records for line in self.row.lines())

    def act(self, data: dict[str, Any]) -> None:
        if refusal := self.refusal():
            messages.error(self.request, refusal)
            return
        verification = Verification(Bill.objects.filter(pk=self.row.pk))
        with deadline.patient():
            differences = list(verification.differences())
        for difference in differences[:MOST_DIFFERENCES_SHOWN]:
            messages.error(self.request, str(difference))
        found = counted(len(differences), "difference") if differences else "no difference"
        result = f"{counted(verification.records, 'record')} read: {found}."
        HistoryEntry.objects.keep(
            HistoryEntry.Action.VERIFIED,
            bill_id=self.row.pk,
            by=self.request.user,
            at=database_now(),
            reason=result,
        )
        if not differences:
            messages.success(self.request, f"The bill agrees with its records. {result}")


_customer = column("customer", "customer")


@admin.register(Bill)
class BillAdmin(ReadOnlyAdmin):
    """The list reads the totals of all bills on a page at once."""

    list_display = (
        "id",
        _customer,
        column("period", "month"),
        column("state", "state"),
        column("total", "total"),
    )
    list_display_links = ("id", _customer)
    list_filter = (StateFilter, CustomerFilter, MonthFilter, LeastTotalFilter, MostTotalFilter)
    search_fields = ("customer__name",)
    export_name = "admin:usage_bill_export"
    search_help_text = "A part of the customer's name, the customer id, or the number of a bill"
    ordering = ("-month", "customer_id", "-period_start")
    page_template = "usage/admin/bill.html"
    changelist_class = BillChangeList

    @property
    def media(self) -> Any:
        return super().media + CustomerChoice().media

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("customer", "hold")

    def own_pages(self) -> list[OwnPage]:
        return [
            ("attention", "attention/", AttentionPage),
            ("to-close", "to-close/", ToClose),
            ("close", "<path:object_id>/close/", CloseBill),
            ("hold", "<path:object_id>/hold/", HoldBill),
            ("release", "<path:object_id>/release/", ReleaseBill),
            ("accept", "<path:object_id>/accept/", AcceptDuplicates),
            ("lift", "<path:object_id>/lift/", LiftAcceptance),
            ("statement", "<path:object_id>/statement/", Statement),
            ("verify", "<path:object_id>/verify/", VerifyBill),
            ("month", "month/<str:month>/", HandOver),
            ("month_closed", "month/<str:month>/closed.csv", ClosedFile),
            ("month_control", "month/<str:month>/control.csv", ControlFile),
            ("export", "export.csv", self.export),
            ("lines", "<path:object_id>/lines.csv", self.lines),
        ]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not (term := search_term.strip()):
            return queryset, False
        found = Customer.objects.filter(matching(term)).values("pk")
        wanted = Q(customer__in=found)
        if (number := number_of(term)) is not None:
            wanted |= Q(pk=number)
        return queryset.filter(wanted), False

    def page_name(self, row: Bill) -> str:
        return f"{self.row_name(row)} of {row.customer_name}, {period_of(row)}"

    def names_of(self, row: Bill) -> Sequence[str]:
        return (row.customer.name,)

    def prepare(self, request: HttpRequest, rows: Sequence[Any]) -> None:
        for bill, cells in zip(rows, bill_cells(rows, database_now()), strict=True):
            bill.cells = cells

    def export(self, request: HttpRequest) -> HttpResponseBase:
        rows = (exports.bill_row(bill) for bill in exports.rows_of_list(self, request))
        return exports.csv_response("bills.csv", exports.BILL_COLUMNS, rows)

    def lines(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        bill = self.row(request, object_id)
        filename = f"bill-{bill.pk}-{bill.month:%Y-%m}-lines.csv"
        return exports.csv_response(filename, exports.LINE_COLUMNS, exports.line_rows(bill))

    def page_context(self, request: HttpRequest, row: Bill) -> dict[str, Any]:
        return BillPage(
            row,
            all_lines=request.GET.get("lines") == "all",
            history_before=number_of(request.GET.get("before", "")),
            may_see_records=request.user.has_perm("usage.view_usagerecord"),
        ).context()
