"""What needs attention: on each bill, and as one list by customer."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse

from usage.admin import formats, traffic
from usage.admin.actions import ConfirmedAct
from usage.admin.filters import number_of
from usage.admin.forms import OptionalReasonForm, ReasonForm
from usage.admin.pages import AdminPage
from usage.admin.rows import bill_url, period_of, record_url
from usage.attention.bills import examine
from usage.attention.findings import Comparison, Finding, Kind
from usage.attention.keys import silent_keys
from usage.database.transactions import database_now, repeatable
from usage.models import AcceptedDuplicates, Bill, HistoryEntry, UsageCheck
from usage.money import plain, round_amount
from usage.periods import day_of
from usage.validators import normal_service

BILLS_SHOWN = 40


def finding_cells(finding: Finding, bill: Bill) -> dict[str, Any]:
    """Return a finding as a page shows it; `url` leads to the records or the bill it is about."""
    accept_url = ""
    if finding.kind is Kind.DUPLICATES:
        query = {"service": finding.service}
        accept_url = reverse("admin:usage_bill_accept", args=[bill.pk], query=query)
    amount = checked_at = ""
    if finding.amount is not None:
        amount = formats.money(round_amount(finding.amount, bill.digits), bill.currency)
    if finding.checked_at is not None:
        checked_at = formats.moment(finding.checked_at, timespec="minutes")
    return {
        "kind": formats.badge(finding.kind.value, "bad" if finding.kind.blocks else "quiet"),
        "text": finding.text,
        "service": formats.name(finding.service) if finding.service else "",
        "amount": amount,
        "since": f"{finding.since}",
        "url": _url(finding, bill),
        "pairs": [
            (second, record_url(second), first, record_url(first))
            for second, first in finding.pairs
        ],
        "checked_at": checked_at,
        "accept_url": accept_url,
    }


def _url(finding: Finding, bill: Bill) -> str:
    query = {"bill": f"{bill.pk}"}
    match finding.kind:
        case Kind.DAY:
            query |= {"since": f"{finding.since}", "until": f"{finding.since}"}
        case Kind.LATE:
            query |= {"until": f"{finding.since}"}
        case Kind.FREE | Kind.DUPLICATES:
            query |= {"price": plain(finding.price)} if finding.price is not None else {}
        case _:
            return bill_url(bill.pk)
    if finding.service:
        query |= {"service": finding.service}
    return reverse("admin:usage_usagerecord_changelist", query=query)


def comparison_cells(comparison: Comparison, bill: Bill) -> dict[str, str]:
    """Return the months before as a page shows them, beside the customer's month."""
    previous, average = comparison.previous, comparison.average

    def money(amount: Any) -> str:
        if amount is None:
            return "–"
        return formats.money(round_amount(amount, bill.digits), bill.currency)

    return {
        "previous": money(previous),
        "change": formats.change(comparison.total, previous) if previous else "",
        "average": money(average),
        "up_to": "up to the same day" if comparison.is_running else "",
    }


def last_check() -> UsageCheck | None:
    """Return the last run of `check_usage`."""
    return UsageCheck.objects.order_by("finished_at").last()


class AttentionPage(AdminPage):
    """The open bills with findings, by customer, forty at a time, and the silent API keys."""

    def get(self, request: HttpRequest) -> HttpResponse:
        now = database_now()
        check = last_check()
        bills = Bill.objects.open().select_related("customer").order_by("customer_id", "pk")
        if check:
            bills = bills.filter(Q(pk__in=check.flagged) | Q(pk__in=bills.due(now).values("pk")))
        if after := request.GET.get("after", ""):
            bills = bills.filter(_after(after))
        page = list(bills[: BILLS_SHOWN + 1])
        shown = page[:BILLS_SHOWN]
        examined = examine(shown, now)
        blocking: list[tuple[Any, ...]] = []
        informing: list[tuple[Any, ...]] = []
        for bill in shown:
            of_bill = bill_url(bill.pk), formats.customer(bill.customer), period_of(bill)
            for finding in examined[bill.pk].findings:
                rows = blocking if finding.kind.blocks else informing
                rows.append((*of_bill, finding_cells(finding, bill)))
        last = shown[-1] if len(page) > len(shown) else None
        keys = silent_keys(day_of(now)) if traffic.may_see(request) and not after else []
        return self.model_admin.page(
            request,
            "usage/admin/attention.html",
            None,
            title="Needs attention",
            blocking=blocking,
            informing=sorted(informing, key=lambda row: row[-1]["since"]),
            keys=[
                (traffic.url_of(key.pk), formats.api_key(key), finding.text, finding.since)
                for key, finding in keys
            ],
            checked_at=formats.moment(check.finished_at) if check else None,
            next_query=f"after={last.customer_id}-{last.pk}" if last else "",
        )


def _after(text: str) -> Q:
    customer, _, bill = text.partition("-")
    customer_id, bill_id = number_of(customer), number_of(bill)
    if customer_id is None or bill_id is None:
        raise Http404("The page's address is damaged. Go back to the first page.")
    return Q(customer_id__gte=customer_id) & (Q(customer_id__gt=customer_id) | Q(pk__gt=bill_id))


class OfService(ConfirmedAct):
    """An act on the possible duplicates of one service of the bill's customer."""

    row: Bill

    def may_act(self) -> bool:
        return self.request.user.has_perm("usage.change_usagerecord")

    @property
    def service(self) -> str:
        try:
            return normal_service(self.request.GET.get("service", ""))
        except ValidationError as error:
            raise Http404("The page's address names no service. Open it from the bill.") from error

    def in_force(self) -> Any:
        return AcceptedDuplicates.objects.filter(
            customer=self.row.customer_id, service=self.service, lifted_at__isnull=True
        )

    def context(self) -> dict[str, Any]:
        return {
            "customer": formats.customer(self.row.customer),
            "service": formats.name(self.service),
            "accepted": self.in_force().first(),
        }

    def keep(self, action: HistoryEntry.Action, reason: str, at: dt.datetime) -> None:
        """Write the act to the bill's history."""
        HistoryEntry.objects.keep(
            action,
            bill_id=self.row.pk,
            by=self.request.user,
            at=at,
            reason=reason,
            detail=f"Service: {self.service}",
        )


class AcceptDuplicates(OfService):
    """Says that equal facts of a customer's service are right, until that is lifted."""

    form_class = ReasonForm
    template = "usage/admin/bill_accept.html"
    title = "Are these equal records right?"
    verb = "They are right"

    def refusal(self) -> str:
        if self.in_force().exists():
            return "They are accepted already."
        if not self.row.possible_duplicates.filter(service=self.service).exists():
            return "The last check found no possible duplicates of this service on this bill."
        return ""

    def act(self, data: dict[str, Any]) -> None:
        if refusal := self.refusal():
            messages.error(self.request, f"Nothing was changed: {refusal}")
            return

        def accept() -> None:
            now = database_now()
            _, is_new = AcceptedDuplicates.objects.get_or_create(
                customer_id=self.row.customer_id,
                service=self.service,
                lifted_at=None,
                defaults={"reason": data["reason"], "by": str(self.request.user), "at": now},
            )
            if is_new:
                self.keep(HistoryEntry.Action.ACCEPTED, data["reason"], now)

        repeatable(accept)
        messages.success(self.request, f"Equal records of {self.service} are right.")


class LiftAcceptance(OfService):
    """Lifts what `AcceptDuplicates` accepted."""

    form_class = OptionalReasonForm
    template = "usage/admin/bill_lift.html"
    title = "Ask about equal records again?"
    verb = "Ask again"

    def refusal(self) -> str:
        return "" if self.in_force().exists() else "Equal records of this service are not accepted."

    def act(self, data: dict[str, Any]) -> None:
        def lift() -> int:
            now = database_now()
            lifted = self.in_force().update(lifted_at=now, lifted_by=str(self.request.user))
            if lifted:
                self.keep(HistoryEntry.Action.LIFTED, data["reason"], now)
            return int(lifted)

        if repeatable(lift):
            messages.success(self.request, f"Equal records of {self.service} need attention again.")
        else:
            messages.info(self.request, f"Nothing was changed: {self.refusal()}")
