"""The service as a WSGI application, which answers its endpoint ahead of Django's middleware."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast
from wsgiref.types import StartResponse, WSGIEnvironment

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.http import HttpRequest, HttpResponse
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.security import SecurityMiddleware
from django.utils.http import parse_header_parameters
from django.utils.log import log_response

from billing_project.middleware import (
    GetResponse,
    api_problems,
    content_security_policy,
    endpoint,
    name_request,
)
from billing_project.observe import observe
from usage.api.problems import USAGE_PATHS

# A name of its own, which `benchmarks.without` replaces.
PATHS = USAGE_PATHS


class LenientRequest(WSGIRequest):
    """A request that can be made with any Content-Type, so that the API can refuse it.

    Django's own decodes the query string at once, with the charset of the body, and fails if that
    is wrong or a parameter of the header is malformed (RFC 2231).
    """

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        try:
            parsed = parse_header_parameters(meta.get("CONTENT_TYPE", ""))
        except ValueError:
            parsed = "", {}
        self.content_type, self.content_params = parsed


class Application(WSGIHandler):
    """Django's handler, except that the endpoint has a shorter way."""

    request_class = LenientRequest

    def __init__(self) -> None:
        super().__init__()
        self._security = SecurityMiddleware(_nothing)
        respond = convert_exception_to_response(endpoint(_nothing))
        self._respond = name_request(api_problems(cast("GetResponse", respond)))
        if settings.METRICS_ADDRESS or settings.ACCESS_LOG:
            self._respond = observe(self._respond)
        self._headers: dict[bool, list[tuple[str, str]]] = {}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:  # type: ignore[override]  # the server needs no more
        """Serve a request; an answer with `Connection: close` closes the connection.

        That header belongs to the server (PEP 3333): gunicorn drops it from an application's
        answer, and closes a connection if its response object is told so. Other servers refuse
        the header.
        """

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            kept = [(name, value) for name, value in headers if name.lower() != "connection"]
            if len(kept) < len(headers):
                server: Any = getattr(start_response, "__self__", None)
                if hasattr(server, "force_close"):
                    server.force_close()
            return start_response(status, kept, exc_info)

        if environ["REQUEST_METHOD"] == "POST" and environ["PATH_INFO"] in PATHS:
            return self.answer_endpoint(environ, start)
        response = super().__call__(environ, start)
        if environ["REQUEST_METHOD"] != "HEAD":
            return response
        response.close()
        return ()  # gunicorn drops the body of an answer to HEAD, but logs a warning of each

    def answer_endpoint(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer a POST to one of the PATHS.

        Optimisation: it uses only those parts of Django that the endpoint needs. It goes through no
        middleware that only pages need, sends no signals, and adds the headers that are the same
        in every answer from one list. That spares a third of the CPU per single record. Left out,
        Django's handler answers the same: measure it by
        `python -m benchmarks --without endpoint-first`.
        """
        request = self.request_class(environ)
        try:
            request.get_host()
            is_turned_away = self._security.process_request(request) is not None
        except DisallowedHost:
            is_turned_away = True
        if is_turned_away:
            # The host is not one of ours, or only HTTPS is answered.
            return super().__call__(environ, start_response)
        response = cast("HttpResponse", self._respond(request))
        # As Django's handler does, which leaves out what was logged already. A busy API key may
        # be told thousands of times a second to come back later.
        if response.status_code >= 400 and response.status_code != 429:
            log_response(
                "%s: %s", response.reason_phrase, request.path, response=response, request=request
            )
        response.headers.setdefault("Content-Length", str(len(response.content)))
        is_secure = request.is_secure()
        if is_secure not in self._headers:
            # The headers that middleware adds to every answer, over HTTPS or without it.
            add = SecurityMiddleware(cast("Any", XFrameOptionsMiddleware(_nothing)))
            answer = content_security_policy(cast("GetResponse", add))(request)
            self._headers[is_secure] = [*answer.items()]
        start_response(
            f"{response.status_code} {response.reason_phrase}",
            [*response.items(), *self._headers[is_secure]],
        )
        return _Body(response)


class _Body:
    """The body of an answer, which the server closes when it is sent."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return iter((self._response.content,))

    def close(self) -> None:
        """Do what waits for the answer to be sent; unlike Django's own, without a signal."""
        for closer in self._response._resource_closers:  # noqa: SLF001 - Django has no public hook
            closer()


def _nothing(_request: HttpRequest) -> HttpResponse:
    """Return an answer without body and headers, where nothing else is asked."""
    response = HttpResponse()
    del response["Content-Type"]
    return response
