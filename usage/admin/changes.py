"""The history of a customer or an API key: a page of its own, newest entry first."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed

from usage.admin import formats
from usage.admin.filters import number_of
from usage.admin.pages import BillingAdmin

SHOWN = 40


class WithHistory(BillingAdmin):
    """An admin whose "History" page shows our own history instead of Django's log.

    Django deletes its log with the account of the user who acted.
    """

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if request.method not in {"GET", "HEAD"}:
            # For a POST the row is locked, which takes a transaction, and nothing is changed here.
            return HttpResponseNotAllowed(["GET", "HEAD"])
        row = self.row(request, object_id)
        changes = row.changes.all()
        if before := number_of(request.GET.get("before", "")):
            changes = changes.filter(pk__lt=before)
        found = list(changes[: SHOWN + 1])
        shown = found[:SHOWN]
        return self.page(
            request,
            "usage/admin/changes.html",
            row,
            title=f"History of {row}",
            row_url=self.url_back(request, row),
            row_name=self.row_name(row),
            changes=[
                (change, formats.moment(change.at), formats.name(change.actor)) for change in shown
            ],
            earlier=f"?before={shown[-1].pk}" if len(found) > SHOWN else "",
        )
