"""From the bytes of a request to plain values: nothing is guessed, nothing is rounded."""

from __future__ import annotations

import codecs
import json
import time
from decimal import Decimal, InvalidOperation
from email.message import Message
from typing import Any

from django.http import HttpRequest, HttpResponse

from usage.api.problems import Problem, invalid_json
from usage.api.remembering import remembered

MOST_BYTES = 2 * 1024 * 1024
# A refused body is read for so long, which holds a thread.
_DROPPING_SECONDS = 0.25
# Each piece of it is waited for, however slowly it arrives. After one that came at once, the next
# is larger: a large body takes half the time then.
_PIECE_BYTES, _LARGEST_PIECE_BYTES = 4 * 1024, 64 * 1024
_AT_ONCE_SECONDS = 0.001


def read_body(request: HttpRequest) -> bytes:
    """Return the body; raises Problem if it is too large or did not arrive whole."""
    length = request.META.get("CONTENT_LENGTH") or ""
    expected = int(length) if length.isdecimal() else 0
    if expected > MOST_BYTES:
        raise _too_large()
    try:
        body: bytes = _stream(request).read(MOST_BYTES + 1)
    except Exception as error:  # each server has errors of its own for broken bodies
        raise invalid_json("The body did not arrive whole. Send the request again.") from error
    if len(body) > MOST_BYTES:
        raise _too_large()
    if len(body) < expected:
        raise invalid_json("The body is shorter than its Content-Length. Send the request again.")
    return body


def refuse(request: HttpRequest, problem: Problem) -> HttpResponse:
    """Answer with a problem, having read the rest of the body or closing the connection.

    Many clients look for an answer only after they have sent everything. What does not arrive in a
    moment is dropped by the server once this answer is sent, so that a slow upload holds no thread.
    """
    response = problem.response()
    stream, client = _stream(request), request.META.get("gunicorn.socket")
    asked = time.monotonic()
    ends = asked + _DROPPING_SECONDS
    piece = _PIECE_BYTES
    try:
        while asked < ends:
            if client is not None:
                client.settimeout(ends - asked)
            if not stream.read(piece):
                return response
            before, asked = asked, time.monotonic()
            came_at_once = asked - before < _AT_ONCE_SECONDS
            piece = min(8 * piece, _LARGEST_PIECE_BYTES) if came_at_once else _PIECE_BYTES
    except Exception:  # noqa: BLE001, S110 - as in read_body; the answer does not depend on it
        pass
    finally:
        if client is not None:
            client.settimeout(None)
    response["Connection"] = "close"
    return response


def _stream(request: HttpRequest) -> Any:
    # Django takes a body sent in chunks for empty; the server's own stream knows where it ends.
    return request.META["wsgi.input"] if "HTTP_TRANSFER_ENCODING" in request.META else request


def _too_large() -> Problem:
    return Problem(
        413,
        "body_too_large",
        f"The body has more than {MOST_BYTES:,} bytes. Send the records in smaller batches.",
        headers={"Connection": "close"},
    )


def check_media_type(request: HttpRequest) -> None:
    """Raise Problem unless the headers say application/json in UTF-8, not compressed."""
    encoding = request.META.get("HTTP_CONTENT_ENCODING", "identity").lower()
    if encoding != "identity" or not _is_json(request.META.get("CONTENT_TYPE") or "none/none"):
        raise Problem(
            415,
            "unsupported_media_type",
            "Send the body as Content-Type: application/json, in UTF-8 and not compressed.",
        )


@remembered
def _is_json(content_type: str) -> bool:
    message = Message()
    message["Content-Type"] = content_type
    charset = str(message.get_param("charset", "utf-8")).lower()
    return message.get_content_type() == "application/json" and charset in {"utf-8", "utf8"}


def parse_json(body: bytes) -> Any:
    """Return the JSON value of a body, with numbers as int or Decimal; raises Problem."""
    if body.startswith(codecs.BOM_UTF8):
        raise invalid_json("The body begins with a byte-order mark. Send UTF-8 without one.")
    try:
        return _DECODER.decode(body.decode())
    except UnicodeDecodeError as error:
        raise invalid_json(
            f"Byte {error.start} of the body is not UTF-8. Send the body in UTF-8."
        ) from error
    except json.JSONDecodeError as error:
        raise invalid_json(
            f"The body is not JSON: {error.msg.lower().removesuffix(' at')}"
            f" at line {error.lineno}, column {error.colno}."
        ) from error
    except RecursionError as error:
        raise invalid_json(
            "The body is nested too deeply. A record has only plain fields."
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise invalid_json("Duplicate key in a JSON object. Send each field once.")
    return result


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent that Decimal cannot hold, and no field takes
        return Decimal("Infinity")


def _constant(name: str) -> None:
    raise invalid_json(f"{name} is not a JSON number. Send decimal digits.")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_float=_number,
    # The beginning of a longer one is out of every field's bounds too, and is read in no time.
    parse_int=lambda text: int(text[:40]),
    parse_constant=_constant,
)
