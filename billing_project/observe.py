"""Measures and logs requests where that is wanted, and logs the acts of staff always."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from django.conf import settings
from django.db import Error
from django.http import HttpRequest, HttpResponseBase

from usage.api.problems import USAGE_PATH
from usage.metrics import RequestSummary, instruments, request_summary

logger = logging.getLogger("billing.access")
logger_of_staff = logging.getLogger("billing.staff")
_ABOUT_CUSTOMERS = tuple(
    f"/admin/usage/{model}/" for model in ("customer", "bill", "usagerecord", "traffic")
)
GetResponse = Callable[[HttpRequest], HttpResponseBase]

_ROUTES = (
    (USAGE_PATH.rstrip("/"), "usage"),
    ("/api/", "api"),
    ("/admin/", "admin"),
    ("/livez", "probe"),
    ("/readyz", "probe"),
    ("/static/", "static"),
)


def observe(get_response: GetResponse) -> GetResponse:
    """Middleware: measures and logs what all others answer; used only if one of both is on."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        began = time.perf_counter()
        summary = RequestSummary()
        request_summary.set(summary)
        if instruments is not None:
            instruments.requests_in_progress.inc()
        response = get_response(request)
        # After the answer was sent, so that a worker that is killed has counted no record of
        # which its caller was not told.
        response._resource_closers.append(  # type: ignore[attr-defined]  # noqa: SLF001 - Django has no public hook
            partial(_sent, request, response, summary, began)
        )
        return response

    return middleware


def _sent(
    request: HttpRequest,
    response: HttpResponseBase,
    summary: RequestSummary,
    began: float,
) -> None:
    seconds = time.perf_counter() - began
    if instruments is not None:
        route = _route(request.path_info)
        instruments.requests_in_progress.dec()
        instruments.request_seconds.labels(route, str(response.status_code)).observe(seconds)
        for outcome, count in (+summary.outcomes).items():
            instruments.records.labels(outcome).inc(count)
        if response.status_code == 503:
            instruments.unavailable.labels(summary.sqlstate_class).inc()
    if settings.ACCESS_LOG:
        logger.info(
            "%s %s %d in %.1f ms",
            request.method,
            request.path_info,
            response.status_code,
            seconds * 1000,
            extra={
                "method": request.method,
                "path": request.path_info,
                "status": response.status_code,
                "milliseconds": round(seconds * 1000, 1),
                "outcomes": dict(+summary.outcomes),
                "client": summary.api_client,
            },
        )


def _route(path: str) -> str:
    return next((route for prefix, route in _ROUTES if path.startswith(prefix)), "other")


def log_staff(get_response: GetResponse) -> GetResponse:
    """Middleware: logs each act of staff, and each page about a customer that one of them opened.

    It comes after those that know who is logged in. The line names the page, not its contents.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        user = request.user
        is_act = request.method not in {"GET", "HEAD"}
        # Pages of REST framework have no user at all, and API clients are not staff.
        try:
            is_staff = getattr(user, "is_staff", False)
        except Error:  # the database, which knows the user, is away: nothing was done
            return response
        if is_staff and (is_act or request.path_info.startswith(_ABOUT_CUSTOMERS)):
            logger_of_staff.info(
                "%s: %s %s %d",
                user.get_username(),
                request.method,
                request.get_full_path(),
                response.status_code,
                extra={
                    "user": user.get_username(),
                    "method": request.method,
                    "path": request.get_full_path(),
                    "status": response.status_code,
                },
            )
        return response

    return middleware
