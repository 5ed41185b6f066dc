"""The meaning of an HTTP answer; knows the contract and nothing of connections.

Only an answer that names the id that was sent acknowledges it. Any other 2xx (a login page,
another caller's answer, half a JSON document) is not an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlsplit

from billing_client.errors import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    ConflictError,
    CustomerNotFoundError,
    FieldError,
    RateLimitedError,
    UnavailableError,
    ValidationError,
)
from billing_client.receipts import Receipt, Receipts, Status
from billing_client.retries import retry_after

_T = TypeVar("_T")
_AMOUNT = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_MONTH = re.compile(r"[0-9]{4}-[0-9]{2}")
_ACKNOWLEDGED: dict[int, Status] = {201: "created", 200: "replayed"}
# The next attempt would get the same answer.
_NEVER_BETTER = {501, 505}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read to its end; headers are looked up without regard to case.

    Its content is not in its repr, which tracebacks show: a proxy may have echoed the key.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def read_record(answer: Answer, request_ids: Sequence[str]) -> Receipt:
    """The receipt for a record sent alone; raises the error of refusal() for any other answer."""
    (request_id,) = request_ids
    if answer.status in _ACKNOWLEDGED:
        receipt = _acknowledged(answer.status, _object(answer.body), request_id)
        if receipt is not None:
            return receipt
    raise refusal(answer)


def read_batch(answer: Answer, request_ids: Sequence[str]) -> Receipts:
    """One receipt for each record of a batch; raises unless every one has its verdict."""
    verdicts = read_verdicts(answer, request_ids)
    receipts = Receipts([verdict for verdict in verdicts if verdict is not None])
    if len(receipts) < len(verdicts):
        missing = len(verdicts) - len(receipts)
        raise _unreadable(
            answer, f"has no readable verdict on {missing} of {len(verdicts)} records"
        )
    return receipts


def read_verdicts(answer: Answer, request_ids: Sequence[str]) -> list[Receipt | None]:
    """The receipt of each record of a batch, None where there is no trustworthy one.

    None is never an acknowledgement: the record has to be sent again. Raises the error of
    refusal() if the answer is not one to a batch.
    """
    results = _object(answer.body).get("results") if answer.status == 207 else None
    if not isinstance(results, list):
        raise refusal(answer)
    if len(results) != len(request_ids):
        raise _unreadable(answer, f"has {len(results)} results for {len(request_ids)} records")
    return [
        _verdict(result, request_id)
        for result, request_id in zip(results, request_ids, strict=True)
    ]


def refusal(answer: Answer) -> BillingError:
    """The error for an answer that acknowledges nothing."""
    problem = _object(answer.body)
    error = _rejection(answer.status, problem) or _failure(answer, problem)
    error.status_code = answer.status
    error.code = _text(problem, "code") or None
    error.retry_after = retry_after(answer.headers)
    return error


def quoted(text: str, longest: int = 500) -> str:
    """Foreign text for messages and logs: one short line without control characters.

    It must neither forge lines of a log nor flood it.
    """
    cut = text[: longest + 1]
    shown = " ".join("".join(c if c.isprintable() else " " for c in cut).split())
    return shown if len(cut) <= longest else f"{shown[:longest]}…"


def _failure(answer: Answer, problem: dict[str, Any]) -> BillingError:
    status = answer.status
    detail = _detail(problem)
    said = f"The service answered {status}" + (f" ({detail})" if detail else "")
    if status < 300:  # also 1xx, after which the answer is still to come
        return _unreadable(answer, "does not name the usage that was sent")
    if 300 <= status < 400:
        try:
            host = urlsplit(answer.headers.get("Location", "")).hostname
            target = quoted(host) if host else "the same host"
        except ValueError:
            target = "an unreadable address"
        return ConfigurationError(f"{said}, a redirect to {target}; set the URL to the service.")
    if status in (401, 403):
        return AuthenticationError(f"{said}; pass a key that the service accepts.")
    if status == 429:
        return RateLimitedError(
            f"{said}; send fewer requests and resend this one later under the same id."
        )
    if status in (408, 425) or (status >= 500 and status not in _NEVER_BETTER):
        # Only with 425 was the request surely not processed; some proxies send 408 for a slow
        # service.
        return UnavailableError(f"{said}; resend later under the same id.", ambiguous=status != 425)
    # 404, 405, 413, 415 and the like: this library keeps to the contract, so the address is not
    # the service's, or a proxy in front of it allows less than the contract.
    return ConfigurationError(
        f"{said}; check that the URL is the service's, and any proxy in front of it."
    )


def _unreadable(answer: Answer, why: str) -> UnavailableError:
    return UnavailableError(
        f"The service answered {answer.status}, but its answer {why}; "
        "resend later under the same id.",
        status_code=answer.status,
        ambiguous=True,
    )


def _verdict(result: object, request_id: str) -> Receipt | None:
    if not isinstance(result, dict) or result.get("request_id") != request_id:
        return None
    status = result.get("status")
    if not isinstance(status, int):
        return None
    if status in _ACKNOWLEDGED:
        return _acknowledged(status, result.get("record"), request_id)
    problem = result.get("error")
    if not isinstance(problem, dict):
        return None
    error = _rejection(status, problem)
    if error is None:
        return None
    error.status_code = status
    error.code = _text(problem, "code")
    error.request_ids = (request_id,)
    return Receipt(request_id, "rejected", error=error)


def _acknowledged(status: int, record: object, request_id: str) -> Receipt | None:
    if not isinstance(record, dict) or record.get("request_id") != request_id:
        return None
    bill, amount, late = record.get("bill"), record.get("amount"), record.get("late")
    bill_id, month = (bill.get("id"), bill.get("month")) if isinstance(bill, dict) else (None, None)
    if type(bill_id) is not int or not isinstance(late, bool):
        return None
    if not (isinstance(amount, str) and _AMOUNT.fullmatch(amount)):
        return None
    if not (isinstance(month, str) and _MONTH.fullmatch(month)):
        return None
    try:
        occurred_at = datetime.fromisoformat(record["occurred_at"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return Receipt(
        request_id,
        _ACKNOWLEDGED[status],
        amount=Decimal(amount),
        bill_id=bill_id,
        late=late,
        month=month,
        occurred_at=occurred_at,
    )


def _rejection(status: int, problem: dict[str, Any]) -> BillingError | None:
    """The service's refusal of a record; None if this is not one."""
    code = _text(problem, "code")
    if status == 404 and code == "unknown_customer":
        return CustomerNotFoundError(
            _advised(problem, "create the customer, then resend under the same id")
        )
    if status == 409 and code in {"request_id_conflict", "occurred_at_conflict"}:
        return ConflictError(
            _advised(problem, "do not send this fact again, nor under a new id"),
            conflicting_fields=_items(problem, "conflicting_fields", str),
        )
    # The service says bad_request of the address and the headers, never of a record.
    if status == 400 and code and code != "bad_request":
        return ValidationError(
            f"{_detail(problem)}; correct it and resend under the same id.",
            fields=_fields(problem),
        )
    return None


def _advised(problem: dict[str, Any], advice: str) -> str:
    """The problem, and what to do about it unless the service's detail has said so already."""
    said = _detail(problem)
    return f"{said}." if _text(problem, "detail") else f"{said}; {advice}."


def _fields(problem: dict[str, Any]) -> list[FieldError]:
    return [
        FieldError(_text(error, "field"), _text(error, "code"), _text(error, "detail"))
        for error in _items(problem, "errors", dict)
    ]


def _detail(problem: dict[str, Any]) -> str:
    """The problem in one clause: its detail, then the fields at fault that it does not name."""
    detail = _text(problem, "detail") or _text(problem, "title") or _text(problem, "code")
    untold = [fault for fault in _fields(problem) if fault.detail.rstrip(".") not in detail]
    faults = "; ".join(f"{fault.field}: {fault.detail.rstrip('.')}" for fault in untold)
    said = ": ".join(part for part in (detail.rstrip("."), faults) if part)
    return quoted(said, 1000)


def _text(problem: dict[str, Any], name: str) -> str:
    value = problem.get(name)
    return quoted(value) if isinstance(value, str) else ""


def _items(problem: dict[str, Any], name: str, kind: type[_T]) -> list[_T]:
    """The items of this kind in a list; none if there is no list of that name."""
    items = problem.get(name)
    return [item for item in items if isinstance(item, kind)] if isinstance(items, list) else []


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object, empty if the body is anything else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
