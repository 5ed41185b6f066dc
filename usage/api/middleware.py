"""Middleware: probes for operators, problem details for the API, and the endpoint itself."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBase

from usage.api import problems
from usage.api.parsing import refuse
from usage.api.probes import PROBES
from usage.api.problems import USAGE_PATHS
from usage.api.views import UsageView
from usage.database.postgresql import waiting
from usage.database.postgresql.circuit import CircuitOpen, circuit

logger = logging.getLogger(__name__)
GetResponse = Callable[[HttpRequest], HttpResponseBase]


def probes(get_response: GetResponse) -> GetResponse:
    """Answer /livez and /readyz before hosts are checked and HTTP is redirected."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        probe = PROBES.get(request.path_info)
        return get_response(request) if probe is None else probe(request)

    return middleware


def api_problems(get_response: GetResponse) -> GetResponse:
    """Answer every error under /api/, also a crash, with problem details."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if (
            response.status_code >= 400
            and f"{request.path_info}/".startswith("/api/")
            and response.get("Content-Type") != problems.CONTENT_TYPE
            and isinstance(response, HttpResponse)
        ):
            # The same response: it knows that it was logged, and has headers such as Allow.
            response.content = problems.of_status(response.status_code).response().content
            response["Content-Type"] = problems.CONTENT_TYPE
            response["Content-Length"] = str(len(response.content))
        return response

    return middleware


def endpoint(get_response: GetResponse) -> GetResponse:
    """Answer the endpoint ahead of the middleware that only pages need.

    A part of the optimisation in `billing_project/endpoint.py`, which has its gain: requests skip
    the look for a file, a session, a login and messages, and the URL resolver. Left out, the
    address in `billing_project.urls` answers the same.
    """
    record_usage = UsageView.as_view()
    waiting.install()

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if request.path_info not in USAGE_PATHS:
            return get_response(request)
        try:
            with circuit.attempt():
                return record_usage(request)
        except CircuitOpen as error:
            logger.warning("The database is unavailable.", exc_info=error)
            return refuse(request, problems.unavailable())

    return middleware
