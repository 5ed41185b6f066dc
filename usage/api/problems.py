"""Errors as problem details for HTTP APIs (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from django.http import HttpResponse

CONTENT_TYPE = "application/problem+json"


class FieldError(NamedTuple):
    """What is wrong with one field of the body, by its snake_case name."""

    field: str
    code: str
    detail: str


class Problem(Exception):
    """An answer that refuses; raised where the fault is found, rendered by the view."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        **extensions: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}
        self.extensions = extensions

    def document(self) -> dict[str, Any]:
        """Return the problem details object."""
        document = {
            "type": f"urn:usage-billing:problem:{self.code}",
            "title": TITLES.get(self.code) or HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.extensions,
        }
        if self.errors:
            document["errors"] = [error._asdict() for error in self.errors]
        return document

    def response(self) -> HttpResponse:
        return HttpResponse(
            json.dumps(self.document()),
            status=self.status,
            content_type=CONTENT_TYPE,
            headers=dict(self.headers),
        )


TITLES = {
    "invalid_json": "The body is not JSON as this service reads it",
    "validation_error": "The usage record is not valid",
    "unknown_customer": "No such customer",
    "request_id_conflict": "The request_id stands for other content",
    "not_authenticated": "No valid API key",
    "not_found": "No such address",
    "method_not_allowed": "Only POST is answered here",
    "unsupported_media_type": "The body must be application/json",
    "body_too_large": "The body is too large",
    "too_many_records": "The batch is too large",
    "service_unavailable": "The service cannot record usage right now",
    "internal_error": "The service failed",
}

_DETAILS = {
    400: (
        "bad_request",
        "The request could not be understood: check its address, its Host and its other headers.",
    ),
    403: ("forbidden", "This is not allowed."),
    404: (
        "not_found",
        "There is nothing at this address: usage is reported by POST /api/v1/usage/.",
    ),
    500: ("internal_error", "Send the same request again later; the error has been logged."),
}


def of_status(status: int) -> Problem:
    """Return the problem for an answer that was not made as one, such as an unknown address."""
    code, detail = _DETAILS.get(status) or (
        HTTPStatus(status).name.lower(),
        f"{HTTPStatus(status).description or HTTPStatus(status).phrase}.",
    )
    return Problem(status, code, detail)


def invalid_json(detail: str) -> Problem:
    """Return the problem of a body that cannot be read."""
    return Problem(400, "invalid_json", detail)


def validation_error(errors: Sequence[FieldError]) -> Problem:
    """Return the problem of a record whose fields are at fault."""
    detail = " ".join(f"{error.field}: {error.detail}" for error in errors)
    return Problem(400, "validation_error", detail, errors=errors)


def unavailable() -> Problem:
    """Return the problem of a database that is away, locked or overloaded."""
    return Problem(
        503,
        "service_unavailable",
        "The database is away or overloaded: send the same request again, it is recorded once.",
        headers={"Retry-After": "1"},
    )
