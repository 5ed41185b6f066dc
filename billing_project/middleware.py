"""The middleware of every request, in its order; `billing_project.observe` is around all of it."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable

from django.db import Error
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from billing_project.log import request_id
from usage.api import problems
from usage.api.parsing import refuse
from usage.api.probes import PROBES
from usage.api.views import UsageView
from usage.database.deadline import CircuitOpen, circuit
from usage.database.postgresql import waiting

logger = logging.getLogger(__name__)
logger_of_staff = logging.getLogger("billing.staff")

SAFE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
# Pictures may be part of a style sheet, as Swagger's are.
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_ABOUT_CUSTOMERS = tuple(
    f"/admin/usage/{model}/" for model in ("customer", "bill", "usagerecord", "traffic")
)

GetResponse = Callable[[HttpRequest], HttpResponseBase]


def name_request(get_response: GetResponse) -> GetResponse:
    """Name each request and answer by X-Request-ID, the caller's if it is safe."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        given = request.META.get("HTTP_X_REQUEST_ID", "")
        name = given if SAFE_REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        # Not reset afterwards: Django logs a refused request after its middleware is done with it.
        request_id.set(name)
        response = get_response(request)
        response["X-Request-ID"] = name
        return response

    return middleware


def content_security_policy(get_response: GetResponse) -> GetResponse:
    """Send the policy with every answer."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return middleware


def probes(get_response: GetResponse) -> GetResponse:
    """Answer /livez and /readyz before hosts are checked and HTTP is redirected."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return PROBES.get(request.path_info, get_response)(request)

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
        if request.path_info not in problems.USAGE_PATHS:
            return get_response(request)
        try:
            with circuit.attempt():
                return record_usage(request)
        except CircuitOpen as error:
            logger.warning("The database is unavailable.", exc_info=error)
            return refuse(request, problems.unavailable())

    return middleware


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
