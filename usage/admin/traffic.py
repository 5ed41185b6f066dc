"""The traffic of each API key: counts per day, and the last refusals."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from django.contrib.admin.views.main import SEARCH_VAR
from django.core.exceptions import PermissionDenied
from django.db.models import F, Max
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from usage.admin import formats
from usage.admin.pages import AdminPage
from usage.admin.rows import record_url
from usage.models import ApiKey, Counts, Refusal, Traffic
from usage.models.traffic import KEPT_REFUSALS
from usage.periods import day_of

DAYS_SHOWN = 30
DAYS_UNUSED = 90
_SHOWN = 10


def may_see(request: HttpRequest) -> bool:
    """Tell whether the user may see the traffic of keys."""
    return request.user.has_perms(["usage.view_apikey", "usage.view_traffic"])


def url_of(api_key_id: int) -> str:
    """Return the address of a key's traffic."""
    return reverse("admin:usage_apikey_traffic", args=[api_key_id])


class TrafficPage(AdminPage):
    """The last 30 days of one key, and its last refusals."""

    def get(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if not may_see(request):
            raise PermissionDenied
        row: ApiKey = self.model_admin.row(request, object_id)
        refusals = Refusal.objects.filter(api_key=row).select_related("api_key")
        today = day_of(timezone.now())
        days = [today - dt.timedelta(days=back) for back in range(DAYS_SHOWN)]
        kept = Traffic.objects.filter(api_key=row).since(days[-1])
        by_day = {traffic.day: traffic.counts for traffic in kept}
        total = Counts()
        for counts in by_day.values():
            total = total.plus(counts)
        return self.model_admin.page(
            request,
            "usage/admin/traffic.html",
            row,
            title="Traffic",
            row_url=self.model_admin.url_back(request, row),
            row_name=self.model_admin.row_name(row),
            key=formats.api_key(row),
            refusals_caption=f"The last refusals, {KEPT_REFUSALS} at most",
            refusals=_rows(refusals[:KEPT_REFUSALS]),
            days=[(f"{day:%Y-%m-%d}", _numbers(by_day.get(day, ()))) for day in days],
            total=_numbers(total),
        )


def _numbers(counts: Iterable[int]) -> list[str]:
    return [formats.number(count) for count in counts]


def _rows(refusals: Any) -> list[tuple[Refusal, SafeString, SafeString, str]]:
    """Return each refusal with its time, its key and, if it is a conflict, the record's address."""
    return [
        (
            refusal,
            formats.moment(refusal.at),
            formats.api_key(refusal.api_key),
            record_url(refusal.request_id) if refusal.status == HTTPStatus.CONFLICT else "",
        )
        for refusal in refusals
    ]


def refused_under(request: HttpRequest) -> dict[str, Any]:
    """Return the refusals of the request_id in the search box."""
    request_id = request.GET.get(SEARCH_VAR, "").strip()
    if not request_id or "\0" in request_id or not may_see(request):
        return {}
    refusals = Refusal.objects.of_request(request_id).select_related("api_key")
    return {"asked_for": request_id, "refusals": _rows(refusals[:_SHOWN]), "kept": KEPT_REFUSALS}


def last_used(api_keys: list[ApiKey]) -> dict[int, str]:
    """Return the day on which each of these keys was last used, or "never", by its id."""
    days = Traffic.objects.last_days(api_keys)
    return {row.pk: _day(days.get(row.pk)) for row in api_keys}


def _day(day: dt.date | None) -> str:
    return f"{day:%Y-%m-%d}" if day else "never"


def overview(request: HttpRequest) -> dict[str, Any]:
    """Return the keys with refusals today, and the keys that have not been used for long."""
    if not may_see(request):
        return {}
    today = day_of(timezone.now())
    troubled = Traffic.objects.on(today).troubled().select_related("api_key")
    since = today - dt.timedelta(days=DAYS_UNUSED)
    unused: Any = ApiKey.objects.unused_since(since).annotate(last_day=Max("traffic__day"))
    return {
        "troubled_keys": [
            (
                url_of(row.api_key_id),
                formats.api_key(row.api_key),
                formats.number(row.conflicting),
                formats.number(row.refused),
            )
            for row in troubled.order_by(-(F("conflicting") + F("refused")), "api_key")[:_SHOWN]
        ],
        "unused_keys": [
            (url_of(row.pk), formats.api_key(row), _day(row.last_day))
            for row in unused.order_by("created_at")[:_SHOWN]
        ],
        "days_unused": DAYS_UNUSED,
    }
