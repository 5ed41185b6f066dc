"""Errors as problem details for HTTP APIs (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

CONTENT_TYPE = "application/problem+json"
# The path of the endpoint, which is answered without the last slash too.
USAGE_PATH = "/api/v1/usage/"
USAGE_PATHS = frozenset({USAGE_PATH, USAGE_PATH.rstrip("/")})


class InvalidField(NamedTuple):
    """A field of the body, by its snake_case name, and why it is not valid."""

    field: str
    code: str
    detail: str


@dataclass(eq=False)
class Problem(Exception):
    """An answer with a status of 400 or more: raised where the fault is, rendered by the view."""

    status: int
    code: str
    detail: str
    _: KW_ONLY
    errors: Sequence[InvalidField] = ()
    conflicting_fields: Sequence[str] = ()
    headers: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the problem details object."""
        document: dict[str, Any] = {
            "type": f"urn:usage-billing:problem:{self.code}",
            "title": TITLES.get(self.code) or HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.conflicting_fields:
            document["conflicting_fields"] = self.conflicting_fields
        if self.errors:
            document["errors"] = [error._asdict() for error in self.errors]
        return document

    def response(self) -> HttpResponse:
        return HttpResponse(
            json.dumps(self.document()),
            status=self.status,
            content_type=CONTENT_TYPE,
            headers=self.headers,
        )


TITLES = {
    "invalid_json": "The body is not valid JSON",
    "validation_error": "The usage record is not valid",
    "unknown_customer": "No such customer",
    "request_id_conflict": "The request_id is stored with other content",
    "occurred_at_conflict": "The request_id is stored with another occurred_at",
    "not_authenticated": "No valid API key",
    "not_found": "No such address",
    "method_not_allowed": "This address does not answer this method",
    "unsupported_media_type": "The body must be application/json",
    "too_many_requests": "Too many requests of this API key at once",
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
        f"There is nothing at this address. Report usage by POST {USAGE_PATH}.",
    ),
    405: (
        "method_not_allowed",
        f"Use a method of the Allow header here. Report usage by POST {USAGE_PATH}.",
    ),
    500: (
        "internal_error",
        "The error has been logged. Send the same bytes again later: usage is recorded once.",
    ),
}


def of_status(status: int) -> Problem:
    """Return the problem for an answer that Django made, such as that of an unknown address."""
    code, detail = _DETAILS.get(status) or (
        HTTPStatus(status).name.lower(),
        f"{HTTPStatus(status).description or HTTPStatus(status).phrase}.",
    )
    return Problem(status, code, detail)


@csrf_exempt
def unknown_address(_request: HttpRequest) -> HttpResponse:
    """Answer an unknown address under /api/ with a problem instead of a page."""
    return of_status(404).response()


def invalid_json(detail: str) -> Problem:
    """Return the problem of a body that cannot be read."""
    return Problem(400, "invalid_json", detail)


def validation_error(invalid: Sequence[InvalidField]) -> Problem:
    """Return the problem of a record with fields that are not valid."""
    detail = " ".join(f"{field.field}: {field.detail}" for field in invalid)
    return Problem(400, "validation_error", detail, errors=invalid)


def conflict(fields: Sequence[str]) -> Problem:
    """Return the problem of a request_id that is stored with other values of these fields.

    The commonest cause is a retry whose record was made anew, so the first thing to do is to stop:
    whoever sends the same fact under a new id charges the customer twice.
    """
    code = "occurred_at_conflict" if list(fields) == ["occurred_at"] else "request_id_conflict"
    return Problem(
        409,
        code,
        "A record with this request_id is stored already. If this is a retry, stop: it is recorded."
        f" It differs in {', '.join(fields)}, so make the id, occurred_at and the bytes once,"
        " before the first try. A new request_id is only for another fact, or to report this one"
        " again after billing has voided the stored record.",
        conflicting_fields=fields,
    )


def too_many_requests() -> Problem:
    """Return the problem of an API key that holds its whole share of this process."""
    return Problem(
        429,
        "too_many_requests",
        "Too many requests of this API key are in progress. Nothing was recorded: send the same"
        " bytes again after Retry-After, over fewer connections.",
        headers={"Retry-After": "1"},
    )


def unavailable() -> Problem:
    """Return the problem of a database that is away, locked or overloaded."""
    return Problem(
        503,
        "service_unavailable",
        "The database is away or overloaded. Send the same bytes again: usage is recorded once.",
        headers={"Retry-After": "1"},
    )
