"""Usage records: staff read them, and void one by an action of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import ChangeList
from django.db.models import Exists, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Concat
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from usage.admin import exports, formats, traffic
from usage.admin.actions import Action
from usage.admin.filters import (
    BillFilter,
    CustomerChoice,
    CustomerFilter,
    KeyFilter,
    LateFilter,
    PriceFilter,
    ServiceFilter,
    SinceFilter,
    UntilFilter,
    VoidsFilter,
)
from usage.admin.pages import ReadOnlyAdmin
from usage.admin.paging import KeysetChangeList, Position
from usage.ledger.void import void
from usage.models import UsageRecord
from usage.models.usage_record import REASON_LENGTH, VOID_PREFIX
from usage.validators import REQUEST_ID_LENGTH

# What a list reads at most for one page when its filters are more than one index serves.
LOOKED_THROUGH = 5_000
_SERVED_BY_INDEX = ("bill", "customer", "late", "voids")
_OTHERS = ("service", "price", "reported_by", "since", "until")


class RecordRow(NamedTuple):
    """A record as a bill's page shows it."""

    url: str
    request_id: str
    service: str
    units: str
    price: str
    amount: str
    occurred_at: SafeString
    recorded_at: SafeString
    reported_by: SafeString
    marks: list[SafeString]


def url_of(request_id: str) -> str:
    """Return the address of a record's page."""
    return reverse("admin:usage_usagerecord_change", args=[quote(request_id)])


def to_show(records: QuerySet[Any, Any]) -> QuerySet[Any, Any]:
    """Let each record bring what its row shows; its `is_voided` says whether another cancels it."""
    void = UsageRecord.objects.filter(pk=Concat(Value(VOID_PREFIX), OuterRef("pk")))
    shown: QuerySet[Any, Any] = records.annotate(is_voided=Exists(void))
    return shown.select_related("customer", "bill", "reported_by")


def marks_of(record: UsageRecord, *, voided: bool) -> list[SafeString]:
    """Return what is particular about a record."""
    marks = []
    if record.late:
        marks.append(formats.badge("late", "warning"))
    if record.voids_id is not None:
        marks.append(formats.badge("void", "bad"))
    if voided:
        marks.append(formats.badge("voided", "bad"))
    return marks


def rows_of(records: Iterable[Any]) -> list[RecordRow]:
    """Return records as a bill's page shows them; they come from `to_show`."""
    return [
        RecordRow(
            url=url_of(record.pk),
            request_id=record.pk,
            service=record.service,
            units=formats.number(record.units),
            price=formats.exact_money(record.price_per_unit, record.bill.currency),
            amount=formats.exact_money(record.amount, record.bill.currency),
            occurred_at=formats.minute(record.occurred_at),
            recorded_at=formats.minute(record.recorded_at),
            reported_by=_reporter(record),
            marks=marks_of(record, voided=record.is_voided),
        )
        for record in records
    ]


def _reporter(record: UsageRecord) -> SafeString:
    if record.reported_by:
        return formats.api_key(record.reported_by)
    return formats.name(record.voided_by or "–")


class RecordChangeList(KeysetChangeList):
    """Records, newest first.

    With more filters than one index serves, a page looks through a bounded number of records,
    and the next one goes on from there.
    """

    def rows(self, ordering: Sequence[str], position: Position | None) -> list[Any]:
        served_by = [name for name in _SERVED_BY_INDEX if self.params.get(name)]
        others = [name for name in _OTHERS if self.params.get(name)]
        if self.query or (not others and len(served_by) < 2):
            return super().rows(ordering, position)
        rows, served = self.queryset, self.root_queryset.order_by(*ordering)
        if served_by:
            served = served.filter(self._served_by(served_by[0]))
        if position:
            served, rows = served.filter(position.after()), rows.filter(position.after())
        fields = (name.removeprefix("-") for name in ordering)
        last_and_next = served.values_list(*fields)[LOOKED_THROUGH - 1 : LOOKED_THROUGH + 1]
        if len(last_and_next) == 2:
            self.next_position = Position(ordering, last_and_next[0])
            self.looked_through = LOOKED_THROUGH
            rows = rows.filter(self.next_position.up_to())
        found = list(rows[: self.list_per_page + 1])
        if len(found) > self.list_per_page:
            self.looked_through = None
        return found

    def _served_by(self, name: str) -> Q:
        return Q(voids__isnull=False) if name == "voids" else Q((name, self.params[name]))


class ReasonForm(forms.Form):
    """Why a record is voided."""

    reason = forms.CharField(
        max_length=REASON_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3, "autofocus": True}),
        help_text=f"Kept with the void for ever. At most {REASON_LENGTH} characters.",
    )


class Void(Action):
    """Voids a record."""

    template = "usage/admin/record_void.html"
    title = "Void this record?"
    form_class = ReasonForm
    row: UsageRecord

    def refusal(self) -> str:
        if self.row.voids_id is not None:
            return "This is a void, which cannot be voided: report the usage again under a new id."
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
        self.log(self.row, f"Voided on bill {negative.bill_id}: {data['reason']}")
        messages.success(self.request, f"The record is voided on bill {negative.bill_id}.")


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    """Nothing here changes a record; voiding one adds another."""

    list_display = (
        "shown_id",
        "customer_name",
        "service_name",
        "shown_units",
        "price",
        "amount",
        "recorded",
        "occurred",
        "reporter",
    )
    list_filter = (
        BillFilter,
        KeyFilter,
        CustomerFilter,
        ServiceFilter,
        PriceFilter,
        SinceFilter,
        UntilFilter,
        LateFilter,
        VoidsFilter,
    )
    search_fields = ("request_id__exact",)
    export_name = "admin:usage_usagerecord_export"
    search_help_text = "The exact request_id"
    ordering = ("-recorded_at", "request_id")
    page_template = "usage/admin/record.html"

    @property
    def media(self) -> Any:
        return super().media + CustomerChoice().media

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RecordChangeList

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        refused = traffic.refused_under(request)
        return super().changelist_view(request, {**refused, **(extra_context or {})})

    def get_list_display(self, request: HttpRequest) -> Any:
        of_one_customer = request.GET.keys() & {"bill", "customer"}
        return [
            name for name in self.list_display if name != "customer_name" or not of_one_customer
        ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return to_show(super().get_queryset(request))

    def get_urls(self) -> list[URLPattern]:
        void = self.admin_site.admin_view(Void.as_view(model_admin=self))
        return [
            path(
                "export.csv",
                self.admin_site.admin_view(self.export),
                name="usage_usagerecord_export",
            ),
            path("<path:object_id>/void/", void, name="usage_usagerecord_void"),
            *super().get_urls(),
        ]

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
            record.shown_marks = marks_of(record, voided=record.is_voided)

    @admin.display(description="customer")
    def customer_name(self, record: UsageRecord) -> SafeString:
        return formats.customer(record.customer)

    @admin.display(description="service")
    def service_name(self, record: UsageRecord) -> SafeString:
        return formats.name(record.service)

    @admin.display(description="units")
    def shown_units(self, record: UsageRecord) -> str:
        return formats.number(record.units)

    @admin.display(description="unit price")
    def price(self, record: UsageRecord) -> str:
        return formats.exact_money(record.price_per_unit, record.bill.currency)

    @admin.display(description="amount")
    def amount(self, record: UsageRecord) -> str:
        return formats.exact_money(record.amount, record.bill.currency)

    @admin.display(description="occurred")
    def occurred(self, record: UsageRecord) -> SafeString:
        return formats.minute(record.occurred_at)

    @admin.display(description="recorded")
    def recorded(self, record: UsageRecord) -> SafeString:
        return formats.minute(record.recorded_at)

    @admin.display(description="reported by")
    def reporter(self, record: UsageRecord) -> SafeString:
        return _reporter(record)

    @admin.display(description="request id")
    def shown_id(self, record: Any) -> SafeString:
        marks = format_html_join("", " {}", ((mark,) for mark in record.shown_marks))
        return format_html('<span class="id">{}</span>{}', record.pk, marks)

    def page_context(self, request: HttpRequest, row: UsageRecord) -> dict[str, Any]:
        void = row.void_record
        return {
            "customer": formats.customer(row.customer),
            "reported_by": formats.api_key(row.reported_by) if row.reported_by else None,
            "service": formats.name(row.service),
            "units": formats.number(row.units),
            "price": formats.exact_money(row.price_per_unit, row.bill.currency),
            "amount": formats.exact_money(row.amount, row.bill.currency),
            "occurred_at": formats.moment(row.occurred_at),
            "recorded_at": formats.moment(row.recorded_at),
            "bill_url": reverse("admin:usage_bill_change", args=[row.bill_id]),
            "marks": marks_of(row, voided=void is not None),
            "void": void,
            "void_url": url_of(void.pk) if void else None,
            "voids_url": url_of(row.voids_id) if row.voids_id else None,
            "voidable": void is None and row.voids_id is None,
        }
