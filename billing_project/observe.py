"""Measures and logs requests where that is wanted."""

from __future__ import annotations

import logging
import time
from functools import partial

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from billing_project.middleware import GetResponse
from usage.api.problems import USAGE_PATH
from usage.metrics import RequestSummary, instruments, request_summary

logger = logging.getLogger("billing.access")

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
        routes = (route for prefix, route in _ROUTES if request.path_info.startswith(prefix))
        instruments.requests_in_progress.dec()
        instruments.request_seconds.labels(
            next(routes, "other"), str(response.status_code)
        ).observe(seconds)
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
