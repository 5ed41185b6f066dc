"""Usage records: staff read them, and void one behind a confirmation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from usage.admin import exports, formats, traffic
from usage.admin.actions import ConfirmedAct
from usage.admin.bulk_voiding import VoidMany, VoidManyCsv
from usage.admin.filters import (
    AmountFilter,
    ApiKeyFilter,
    BillFilter,
    CustomerChoice,
    CustomerFilter,
    LateFilter,
    PriceFilter,
    RecordedSinceFilter,
    RecordedUntilFilter,
    ServiceFilter,
    SinceFilter,
    UntilFilter,
    VoidsFilter,
)
from usage.admin.forms import ReasonForm
from usage.admin.pages import OwnPage, ReadOnlyAdmin, column
from usage.admin.record_list import RecordChangeList
from usage.admin.rows import DOTS, bill_url, record_cells, record_url, with_cells
from usage.attention.duplicates import twins_of
from usage.ledger.void import void
from usage.models import UsageRecord
from usage.models.usage_record import VOID_PREFIX
from usage.validators import REQUEST_ID_LENGTH


class VoidRecord(ConfirmedAct):
    """Voids a record."""

    template = "usage/admin/record_void.html"
    title = "Void this record?"
    verb = "Void the record"
    form_class = ReasonForm
    row: UsageRecord

    def refusal(self) -> str:
        if self.row.voids_id is not None:
            return "This is a void, which cannot be voided. Report the usage again under a new id."
        if self.row.void_record is not None:
            return "The record is voided already."
        return ""

    def context(self) -> dict[str, Any]:
        return {
            "customer": formats.customer(self.row.customer),
            "amount": formats.exact_money(-self.row.amount, self.row.bill.currency),
        }

    def act(self, data: dict[str, Any]) -> None:
        negative = void(self.row, reason=data["reason"], by=self.request.user)
        messages.success(self.request, f"The record is voided on bill {negative.bill_id}.")


@admin.display(description="request id")
def request_id(record: Any) -> SafeString:
    """Return a record's id with its badges."""
    marks = format_html_join("", " {}", ((mark,) for mark in record.cells["marks"]))
    return format_html('<span class="id">{}</span>{}', record.pk, marks)


_customer = column("customer", "customer")


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    """Nothing here changes a record; voiding one adds another."""

    list_display = (
        request_id,
        _customer,
        column("service", "service"),
        column("units", "units"),
        column("price", "unit price"),
        column("amount", "amount"),
        column("recorded_at", "recorded"),
        column("occurred_at", "occurred"),
        column("reported_by", "reported by"),
    )
    list_filter = (
        BillFilter,
        ApiKeyFilter,
        CustomerFilter,
        ServiceFilter,
        PriceFilter,
        AmountFilter,
        SinceFilter,
        UntilFilter,
        RecordedSinceFilter,
        RecordedUntilFilter,
        LateFilter,
        VoidsFilter,
    )
    search_fields = ("request_id__exact",)
    export_name = "admin:usage_usagerecord_export"
    search_help_text = "The exact request_id"
    ordering = ("-recorded_at", "request_id")
    page_template = "usage/admin/record.html"
    changelist_class = RecordChangeList

    @property
    def media(self) -> Any:
        return super().media + CustomerChoice().media

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {**traffic.refused_under(request), "may_void": self.may_act(request)}
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def get_list_display(self, request: HttpRequest) -> Any:
        of_one_customer = request.GET.keys() & {"bill", "customer"}
        return [name for name in self.list_display if name is not _customer or not of_one_customer]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return with_cells(super().get_queryset(request))

    def own_pages(self) -> list[OwnPage]:
        return [
            ("export", "export.csv", self.export),
            ("void_many", "void-many/", VoidMany),
            ("void_many_csv", "void-many/<str:up_to>/records.csv", VoidManyCsv),
            ("void", "<path:object_id>/void/", VoidRecord),
        ]

    def row(self, request: HttpRequest, object_id: str) -> Any:
        dots = {written: request_id for request_id, written in DOTS.items()}
        return super().row(request, dots.get(object_id, object_id))

    def row_url(self, row: UsageRecord) -> str:
        return record_url(row.pk)

    def page_name(self, row: UsageRecord) -> str:
        return f"{self.row_name(row)} of {row.customer.name}"

    def export(self, request: HttpRequest) -> HttpResponseBase:
        rows = (exports.record_row(record) for record in exports.rows_of_list(self, request))
        return exports.csv_response("usage-records.csv", exports.RECORD_COLUMNS, rows)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find a record and its void."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if not term.isascii() or len(term) > len(VOID_PREFIX) + REQUEST_ID_LENGTH:
            return queryset.none(), False
        return queryset.filter(pk__in=[term, VOID_PREFIX + term]), False

    def names_of(self, row: UsageRecord) -> Sequence[str]:
        reporter = row.reported_by.name if row.reported_by else row.voided_by
        return (row.pk, row.service, row.customer.name, reporter)

    def prepare(self, request: HttpRequest, rows: Sequence[Any]) -> None:
        for record in rows:
            record.cells = record_cells(record)

    def page_context(self, request: HttpRequest, row: UsageRecord) -> dict[str, Any]:
        void = row.void_record
        return {
            "record": record_cells(row, timespec="seconds"),
            "void_act_url": record_url(row.pk, "void"),
            "bill_url": bill_url(row.bill_id),
            "void": void,
            "void_url": record_url(void.pk) if void else None,
            "voids_url": record_url(row.voids_id) if row.voids_id else None,
            "voidable": void is None and row.voids_id is None,
            "twins": [(twin, record_url(twin)) for twin in twins_of(row)],
        }
