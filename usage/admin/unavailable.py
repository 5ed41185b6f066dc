"""Pages while the database is away: within 8 seconds, and with a sentence instead of a crash."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.defaults import server_error

from usage.database.deadline import CircuitOpen, circuit
from usage.database.postgresql import waiting
from usage.database.transactions import is_unavailable
from usage.models import BillingTimeZone, OtherTimeZone

logger = logging.getLogger(__name__)


class PageLimits:
    """Middleware: limits how long a page waits for the database, and answers 503 without it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        waiting.install()

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        try:
            with circuit.attempt():
                return self.get_response(request)
        except CircuitOpen as error:
            logger.warning("The database is unavailable.", exc_info=error)
            return unavailable()

    def process_view(self, request: HttpRequest, *_: Any) -> HttpResponse | None:
        """Answer 503 to a page of a process whose time zone is not that of the books."""
        if request.path_info.startswith(reverse("admin:index")):
            try:
                BillingTimeZone.objects.confirm()
            except Exception as error:
                if (page := self.process_exception(request, error)) is None:
                    raise
                return page
        return None

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer for a view that the database left without an answer."""
        if not is_unavailable(error):
            return None
        if isinstance(error, OtherTimeZone):
            logger.warning("%s", error)
            return unavailable(str(error))
        logger.warning("The database is unavailable.", exc_info=error)
        return unavailable()


def unavailable(other_time_zone: str = "") -> HttpResponse:
    """Return the page for a database that is away, or kept in another time zone.

    It is rendered without the request, whose user and messages are kept in the database.
    """
    return HttpResponse(
        render_to_string("503.html", {"other_time_zone": other_time_zone}),
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        headers={"Retry-After": "5", "Cache-Control": "no-store"},
    )


def crash(request: HttpRequest) -> HttpResponse:
    """Answer for an error outside of every view, such as one in keeping the session."""
    error = sys.exc_info()[1]
    return unavailable() if error and is_unavailable(error) else server_error(request)
