"""What every request passes through before Django's own middleware."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBase

from usage.api import problems
from usage.api.probes import PROBES
from usage.api.views import UsageView

ENDPOINT = frozenset({"/api/v1/usage/", "/api/v1/usage"})
GetResponse = Callable[[HttpRequest], HttpResponseBase]


def probes(get_response: GetResponse) -> GetResponse:
    """Answer /livez and /readyz before hosts are checked and HTTP is redirected."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        probe = PROBES.get(request.path_info)
        return get_response(request) if probe is None else probe(request)

    return middleware


def api_problems(get_response: GetResponse) -> GetResponse:
    """Turn every error under /api/ that is not a problem yet, a crash too, into one."""

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
    """Answer the endpoint without what only pages need: files, sessions, logins and messages."""
    record_usage = UsageView.as_view()

    def middleware(request: HttpRequest) -> HttpResponseBase:
        is_usage = request.path_info in ENDPOINT
        return record_usage(request) if is_usage else get_response(request)

    return middleware
