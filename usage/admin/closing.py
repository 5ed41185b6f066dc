"""Closing one bill, putting it on hold and releasing it, each behind a confirmation."""

from __future__ import annotations

import datetime as dt
from functools import cached_property
from typing import Any

from django import forms
from django.contrib import messages

from usage.admin import formats
from usage.admin.actions import AskAgain, ConfirmedAct
from usage.admin.attention import comparison_cells, finding_cells
from usage.admin.forms import CloseForm, OptionalReasonForm, ReasonForm
from usage.attention.bills import examine
from usage.attention.findings import Examined, Kind, flag_of
from usage.database.transactions import database_now
from usage.ledger.close import BillChanged, BillOnHold, close
from usage.ledger.hold import CLOSED_ALREADY, HELD_ALREADY, NOT_HELD, hold, release
from usage.models import Bill
from usage.money import plain
from usage.periods import is_open_to_usage

_HIGH = flag_of(Kind.HIGH)


class CloseBill(ConfirmedAct):
    """Closes a bill as the page showed it, or asks again if it has changed."""

    template = "usage/admin/bill_close.html"
    title = "Close this bill?"
    verb = "Close the bill"
    row: Bill

    @cached_property
    def now(self) -> dt.datetime:
        return database_now()

    @cached_property
    def examined(self) -> Examined:
        return examine([self.row], self.now)[self.row.pk]

    def form(self, *, data: Any = None, initial: Any = None) -> forms.Form:
        if data is None:
            flags = ",".join(sorted(self.examined.flags))
            initial |= {"expected_total": plain(self.examined.total), "flags": flags}
        form = CloseForm(data=data, initial=initial)
        if _HIGH not in (initial if data is None else data).get("flags", ""):
            del form.fields["is_right"]
        return form

    def refusal(self) -> str:
        if self.row.is_closed:
            return "The bill is closed already and cannot change."
        if hasattr(self.row, "hold"):
            return str(BillOnHold(self.row.hold.reason))
        if self.now <= self.row.period_start:
            return "The bill's period has not begun. Close it after that."
        return ""

    def context(self) -> dict[str, Any]:
        largest = max(self.examined.lines, key=lambda line: line.amount, default=None)
        return {
            "month": f"{self.row.month:%B %Y}",
            "total": formats.money(self.examined.total, self.row.currency),
            "comparison": comparison_cells(self.examined.comparison, self.row),
            "largest": largest and formats.name(largest.service),
            "largest_amount": largest and formats.money(largest.amount, self.row.currency),
            "findings": [finding_cells(finding, self.row) for finding in self.examined.findings],
            "ends_early": self.now < self.row.period_end,
            "month_open": is_open_to_usage(self.row.month, self.now),
        }

    def act(self, data: dict[str, Any]) -> None:
        try:
            expected_total = formats.amount_of(data["expected_total"])
        except ValueError as error:
            raise AskAgain("The total that the page showed is missing.") from error
        try:
            closed = close(
                self.row,
                by=self.request.user,
                reason=data["reason"],
                expected_total=expected_total,
                expected_flags=data["flags"].split(","),
            )
        except BillChanged as changed:
            raise AskAgain(str(changed)) from changed
        if not closed:
            messages.info(self.request, "The bill was closed already; nothing was changed.")
            return
        total = formats.money(self.row.closed_total, self.row.currency)
        messages.success(self.request, f"The bill is closed. Its total is {total}.")


class HoldBill(ConfirmedAct):
    """Puts a bill on hold."""

    form_class = ReasonForm
    template = "usage/admin/bill_hold.html"
    title = "Put this bill on hold?"
    verb = "Hold the bill"
    row: Bill

    def refusal(self) -> str:
        if self.row.is_closed:
            return CLOSED_ALREADY
        if hasattr(self.row, "hold"):
            return HELD_ALREADY
        return ""

    def act(self, data: dict[str, Any]) -> None:
        hold(self.row, by=self.request.user, reason=data["reason"])
        messages.success(self.request, "The bill is on hold.")


class ReleaseBill(ConfirmedAct):
    """Releases a bill that is on hold."""

    form_class = OptionalReasonForm
    template = "usage/admin/bill_release.html"
    title = "Release this bill?"
    verb = "Release the bill"
    row: Bill

    def refusal(self) -> str:
        return "" if hasattr(self.row, "hold") else NOT_HELD

    def context(self) -> dict[str, Any]:
        held = self.row.hold
        return {
            "held_at": formats.moment(held.at),
            "held_by": formats.name(held.by),
            "held_reason": held.reason,
        }

    def act(self, data: dict[str, Any]) -> None:
        release(self.row, by=self.request.user, reason=data["reason"])
        messages.success(self.request, "The bill is no longer on hold.")
