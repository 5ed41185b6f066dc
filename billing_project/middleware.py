"""Middleware for every request: a name for it, and a policy for pages."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase

from billing_project.log import request_id

SAFE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
# Pictures may be part of a style sheet, as Swagger's are.
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
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
