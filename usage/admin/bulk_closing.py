"""Closing many due bills: a list to choose from, one confirmation, and closes that go on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Case, Q, When
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from usage.admin import formats
from usage.admin.attention import comparison_cells, finding_cells, last_check
from usage.admin.filters import number_of
from usage.admin.forms import OptionalReasonForm
from usage.admin.pages import AdminPage
from usage.admin.paging import fitting
from usage.admin.rows import cells_of_bill
from usage.attention.bills import examine
from usage.attention.findings import Examined
from usage.database.transactions import DatabaseUnavailable, database_now
from usage.ledger.close import CloseRefused, close
from usage.models import Bill
from usage.money import exact_sum, plain, round_amount
from usage.verification import counted

BILLS_SHOWN = 60
# A request begins no close after this; one may take the rest of its 8 seconds.
SECONDS_PER_REQUEST = 2.0


class Shown(NamedTuple):
    """A bill as a page showed it, for the form to send back."""

    bill_id: int
    total: Decimal
    flags: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Shown:
        """Return the value that `str()` wrote; raises ValueError if it did not."""
        number, total, flags = text.split(":")
        if (bill_id := number_of(number)) is None:
            raise ValueError(f"{number!r} is not the id of a bill.")
        return cls(bill_id, formats.amount_of(total), tuple(flags.split(",")))

    def __str__(self) -> str:
        return f"{self.bill_id}:{plain(self.total)}:{','.join(self.flags)}"


class ToClose(AdminPage):
    """The due bills.

    A POST with bills chosen shows the confirmation. Its POST closes bills for about two seconds; if
    some remain, the answer is a form with these that the browser sends by itself.
    """

    http_method_names = ["get", "head", "post"]

    def get(self, request: HttpRequest) -> HttpResponse:
        now = database_now()
        check = last_check()
        flagged = Case(When(pk__in=check.flagged if check else [], then=0), default=1)
        due = Bill.objects.due(now).select_related("customer", "hold")
        number = due.count()
        due = due.annotate(place=flagged).order_by("place", "pk")
        if after := request.GET.get("after", ""):
            due = due.filter(_after(after))
        page: list[Any] = list(due[: BILLS_SHOWN + 1])
        shown: list[Any] = fitting(page[:BILLS_SHOWN], self.model_admin.names_of)
        examined = examine(shown, now)
        rows = sorted(
            (_row(bill, examined[bill.pk], now) for bill in shown),
            key=lambda row: (not row["is_blocked"], row["is_held"]),
        )
        last = shown[-1] if len(page) > len(shown) else None
        return self.page(
            "usage/admin/to_close.html",
            title="To close",
            number=formats.number(number),
            rows=rows,
            sums=_sums((bill, examined[bill.pk].total) for bill in shown),
            chosen=sum(not (row["is_blocked"] or row["is_held"]) for row in rows),
            checked_at=formats.moment(check.finished_at) if check else None,
            next_after=f"{last.place}-{last.pk}" if last else "",
        )

    def post(self, request: HttpRequest) -> HttpResponse:
        if not self.model_admin.may_act(request):
            raise PermissionDenied
        try:
            chosen = [Shown.parse(value) for value in request.POST.getlist("bill")]
        except ValueError:
            messages.error(request, "Nothing was closed: the form is damaged. Choose again.")
            return HttpResponseRedirect(self.address)
        if not chosen and "closed" not in request.POST:
            messages.info(request, "Choose the bills to close.")
            return HttpResponseRedirect(self.address)
        if "confirmed" not in request.POST:
            return self.confirm(chosen, OptionalReasonForm())
        form = OptionalReasonForm(request.POST)
        if not form.is_valid():
            return self.confirm(chosen, form)
        return self.close_some(chosen, form.cleaned_data["reason"])

    @property
    def address(self) -> str:
        return reverse("admin:usage_bill_to-close")

    def page(self, template: str, **context: Any) -> HttpResponse:
        return self.model_admin.page(self.request, template, None, address=self.address, **context)

    def confirm(self, chosen: Sequence[Shown], form: forms.Form) -> HttpResponse:
        """Show the chosen bills as they are now, of which the confirmation carries the totals."""
        now = database_now()
        found = Bill.objects.filter(pk__in=[one.bill_id for one in chosen])
        bills = list(found.open().select_related("customer", "hold").order_by("pk"))
        already = found.closed().count()
        if not bills:
            messages.info(self.request, "The bills chosen are closed already; nothing was changed.")
            return HttpResponseRedirect(self.address)
        examined = examine(bills, now)
        shown = {one.bill_id: one.total for one in chosen}
        rows = [_row(bill, examined[bill.pk], now, shown=shown[bill.pk]) for bill in bills]
        verb = f"Close {counted(len(rows), 'bill')}"
        return self.page(
            "usage/admin/close_many.html",
            title=f"{verb}?",
            verb=verb,
            form=form,
            values=[row["value"] for row in rows],
            already=already,
            flagged=[row for row in rows if row["is_blocked"] or row["is_held"] or "shown" in row],
            sums=_sums((bill, examined[bill.pk].total) for bill in bills),
        )

    def close_some(self, chosen: Sequence[Shown], reason: str) -> HttpResponse:
        """Close the first of these bills, and go on with the rest in another request."""
        counts = (self.request.POST.get(name, "") for name in ("closed", "already"))
        closed, already = (number_of(text) or 0 for text in counts)
        left = self.request.POST.getlist("left")
        began = time.monotonic()
        rest = list(chosen)
        bills = Bill.objects.in_bulk([one.bill_id for one in chosen])
        while rest and time.monotonic() < began + SECONDS_PER_REQUEST:
            one = rest.pop(0)
            if not (bill := bills.get(one.bill_id)):
                continue
            try:
                if close(
                    bill,
                    by=self.request.user,
                    reason=reason,
                    expected_total=one.total,
                    expected_flags=one.flags,
                    began=began,
                ):
                    closed += 1
                else:
                    already += 1
            except CloseRefused as error:
                left.append(f"Bill {bill.pk} of {bill.customer} was left open. {error}")
            except DatabaseUnavailable:
                left.append(
                    f"The database did not answer in time. Check whether bill {bill.pk} of"
                    f" {bill.customer} was closed."
                )
        if rest:
            done = closed + already + len(left)
            return self.page(
                "usage/admin/goes_on.html",
                title="Closing bills",
                said=f"{done} of {done + len(rest)} bills done.",
                values=[
                    ("confirmed", "1"),
                    ("reason", reason),
                    ("closed", closed),
                    ("already", already),
                    *(("left", text) for text in left),
                    *(("bill", str(one)) for one in rest),
                ],
            )
        said = f"{closed} closed"
        if already:
            said += f", {already} {'was' if already == 1 else 'were'} closed already"
        messages.success(self.request, f"{said}.")
        for text in left:
            messages.warning(self.request, text)
        return HttpResponseRedirect(self.address)


def _after(text: str) -> Q:
    """Match the bills after the one that a page's address names by its place and its id."""
    place, _, bill_id = text.partition("-")
    if place not in {"0", "1"} or (number := number_of(bill_id)) is None:
        raise Http404("The page's address is damaged. Go back to the first page.")
    return Q(place__gt=place) | Q(place=place, pk__gt=number)


def _row(bill: Bill, found: Examined, now: Any, *, shown: Decimal | None = None) -> dict[str, Any]:
    """Return a due bill in a table; `shown` is its total on the page before, if there was one."""
    row = {
        "value": str(Shown(bill.pk, found.total, tuple(sorted(found.flags)))),
        "bill": cells_of_bill(bill, found.total, now),
        "comparison": comparison_cells(found.comparison, bill),
        "findings": [finding_cells(finding, bill) for finding in found.blocking],
        "is_blocked": bool(found.blocking),
        "is_held": hasattr(bill, "hold"),
    }
    if shown is not None and shown != found.total:
        row["shown"] = formats.money(round_amount(shown, bill.digits), bill.currency)
    return row


def _sums(totals: Iterable[tuple[Bill, Decimal]]) -> list[tuple[int, str]]:
    """Return the number and the sum of bills by currency."""
    by_currency: dict[str, list[Decimal]] = defaultdict(list)
    for bill, total in totals:
        by_currency[bill.currency].append(total)
    return [
        (len(amounts), formats.money(exact_sum(amounts), currency))
        for currency, amounts in sorted(by_currency.items())
    ]
