"""Voiding all records that the filters of the list show, behind one confirmation."""

from __future__ import annotations

import datetime as dt
import shlex
import time
from typing import Any, cast

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.urls import reverse
from django.utils.functional import cached_property

from usage.admin import exports, formats
from usage.admin.forms import ReasonForm
from usage.admin.pages import AdminPage
from usage.admin.record_list import RecordChangeList
from usage.admin.rows import record_cells, with_cells
from usage.database.transactions import DatabaseUnavailable, database_now
from usage.ledger.bulk_void import CHUNK, Selection, summary, void_all
from usage.ledger.void import VoidRefused
from usage.verification import counted

MOST_RECORDS = 5_000
# A request begins no chunk after this; one may take the rest of its 8 seconds.
SECONDS_PER_REQUEST = 2.0
# The list's filters as options of `manage.py void_records`.
_OPTIONS = {
    "reported_by": "--key",
    "customer": "--customer",
    "bill": "--bill",
    "service": "--service",
    "price": "--price",
    "since": "--from",
    "until": "--to",
    "recorded_since": "--recorded-from",
    "recorded_until": "--recorded-to",
}


class VoidManyForm(ReasonForm):
    """Why records are voided, and how many, to be typed in."""

    count = forms.IntegerField(min_value=1, label="Number of records")
    up_to = forms.CharField(widget=forms.HiddenInput)
    done = forms.IntegerField(widget=forms.HiddenInput, required=False, min_value=0)

    field_order = ("count", "reason")

    def clean_up_to(self) -> dt.datetime:
        """Return the instant of the preview."""
        try:
            return _instant(self.cleaned_data["up_to"])
        except ValueError as error:
            raise ValidationError("The form is damaged. Open the page again.") from error


class OfFilteredList(AdminPage):
    """A view of the records that the filters in the address choose."""

    def setup(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        # After a session ended the reason typed in is beside the filters: the list would refuse it.
        filters = request.GET.copy()
        self.typed_reason = str(filters.pop("reason", [""])[-1])
        request.GET = filters  # type: ignore[assignment]  # only this view reads it
        super().setup(request, *args, **kwargs)

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not self.model_admin.may_act(request):
            raise PermissionDenied
        if not self.changelist.is_narrowed:
            messages.info(request, "Set filters first: they choose the records to void.")
            return HttpResponseRedirect(reverse("admin:usage_usagerecord_changelist"))
        return super().dispatch(request, *args, **kwargs)

    @cached_property
    def changelist(self) -> RecordChangeList:
        """The list with the filters of the address; raises Http404 if one is malformed."""
        found = cast("RecordChangeList", self.model_admin.get_changelist_instance(self.request))
        if found.refusal:
            raise Http404(found.refusal)
        return found

    def selection(self, up_to: dt.datetime, *, and_voided: bool = False) -> Selection:
        """Return the records chosen, up to an instant."""
        return Selection(
            self.changelist.queryset,
            up_to,
            customer=self.changelist.customer,
            and_voided=and_voided,
        )


class VoidMany(OfFilteredList):
    """Shows what would be voided, and voids it in chunks.

    The preview fixes the instant up to which records count, so that new ones change nothing. A POST
    voids for about two seconds; if some remain, the answer is a form that the browser sends itself.
    """

    http_method_names = ["get", "head", "post"]

    @property
    def list_address(self) -> str:
        address = reverse("admin:usage_usagerecord_changelist")
        return f"{address}{self.changelist.export_query}"

    def get(self, request: HttpRequest) -> HttpResponse:
        up_to = database_now()
        initial = {"up_to": up_to.isoformat(), "reason": self.typed_reason}
        return self.preview(VoidManyForm(initial=initial), up_to)

    def post(self, request: HttpRequest) -> HttpResponse:
        form = VoidManyForm(request.POST)
        if not form.is_valid():
            return self.preview(form, form.cleaned_data.get("up_to") or database_now())
        up_to, count = form.cleaned_data["up_to"], form.cleaned_data["count"]
        done = form.cleaned_data["done"] or 0
        left = summary([self.selection(up_to)], most=MOST_RECORDS).records
        if left + done != count or left > MOST_RECORDS:
            form.add_error("count", f"There are {left:,} records to void. Type that number.")
            return self.preview(form, up_to)
        return self.void_some(form.cleaned_data["reason"], up_to, count, done)

    def preview(self, form: VoidManyForm, up_to: dt.datetime) -> HttpResponse:
        """Show what would be voided, or the command if a page may not void that many."""
        found = summary([self.selection(up_to)], most=MOST_RECORDS)
        too_many = found.records > MOST_RECORDS
        examples = with_cells(self.changelist.root_queryset).filter(
            pk__in=[record.pk for record in found.examples]
        )
        csv_url = reverse("admin:usage_usagerecord_void_many_csv", args=[up_to.isoformat()])
        return self.page(
            "usage/admin/void_many.html",
            title="Void records?" if too_many else f"Void {counted(found.records, 'record')}?",
            form=form,
            number=formats.number(found.records),
            sums=[
                formats.exact_money(amount, currency)
                for currency, amount in sorted(found.amounts.items())
            ],
            open_bills=counted(found.open_bills, "open bill"),
            closed_bills=counted(found.closed_bills, "closed bill"),
            examples=[record_cells(record) for record in examples.order_by("recorded_at", "pk")],
            too_many=too_many,
            most=formats.number(MOST_RECORDS),
            command=self.command(),
            up_to=formats.moment(up_to),
            csv_url=f"{csv_url}{self.changelist.export_query}",
        )

    def command(self) -> str:
        """Return the command that voids the same; "" if it has no such filter."""
        words = []
        for given in self.changelist.filters:
            name = given.parameter_name
            if (name, given.text) == ("voids", "none"):  # the command never voids those
                continue
            if name == "late":
                words.append("--late")
            elif name in _OPTIONS and (option := given.as_option):
                words += [_OPTIONS[name], shlex.quote(option)]
            else:
                return ""
        if self.changelist.query or not words:
            return ""
        return " ".join(["manage.py", "void_records", *words, "--reason", "…"])

    def page(self, template: str, **context: Any) -> HttpResponse:
        return self.model_admin.page(
            self.request, template, None, list_address=self.list_address, **context
        )

    def void_some(self, reason: str, up_to: dt.datetime, count: int, done: int) -> HttpResponse:
        """Void the first records of the selection, and go on with the rest in another request."""
        selection = self.selection(up_to)
        run = f"{counted(count, 'record')} in all; {selection}"
        began = time.monotonic()
        try:
            for chunk in selection.chunks(CHUNK):
                if time.monotonic() > began + SECONDS_PER_REQUEST:
                    return self.goes_on(reason, up_to, count, done)
                done += void_all(chunk, reason=reason, by=self.request.user, run=run)
        except VoidRefused as refusal:
            messages.error(self.request, f"Stopped after {counted(done, 'void')}: {refusal}")
        except DatabaseUnavailable:
            messages.error(
                self.request,
                f"The database did not answer in time, after {counted(done, 'void')}. Void the rest"
                " later: no record is voided twice.",
            )
        else:
            messages.success(self.request, f"{counted(done, 'record')} voided.")
        return HttpResponseRedirect(self.list_address)

    def goes_on(self, reason: str, up_to: dt.datetime, count: int, done: int) -> HttpResponse:
        return self.page(
            "usage/admin/goes_on.html",
            title="Voiding records",
            said=f"{done:,} of {count:,} records voided.",
            values=[
                ("reason", reason),
                ("up_to", up_to.isoformat()),
                ("count", count),
                ("done", done),
            ],
        )


class VoidManyCsv(OfFilteredList):
    """The records of a preview as CSV, voided or not, for the team that reports them again."""

    def get(self, request: HttpRequest, up_to: str) -> StreamingHttpResponse:
        try:
            instant = _instant(up_to)
        except ValueError as error:
            raise Http404("The address is damaged. Open it from the page again.") from error
        selection = self.selection(instant, and_voided=True)
        rows = (exports.record_row(record) for chunk in selection.chunks(1000) for record in chunk)
        return exports.csv_response("to-void.csv", exports.RECORD_COLUMNS, rows)


def _instant(text: str) -> dt.datetime:
    instant = dt.datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no offset.")
    try:
        return instant.astimezone(dt.UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} is beyond the calendar.") from error
