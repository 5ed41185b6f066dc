"""The wire contract in memory: records are stored, replayed, in conflict or refused.

It has no keys, and a bill never closes before its month and three days are over. A test of the
service compares the two.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from billing_client.batches import MOST_RECORDS
from billing_client.decimals import product
from billing_client.errors import FieldError, ValidationError
from billing_client.strict_json import no_constant, unique_keys
from billing_client.usage import Usage, camel_case

Record = dict[str, Any]

_REQUIRED = ("request_id", "customer_id", "service", "units_consumed", "price_per_unit")
_FIELDS = (*_REQUIRED, "occurred_at")
_CONTENT = _FIELDS[1:]
_TIME = r"([01]\d|2[0-3]):[0-5]\d"
# RFC 3339, section 5.6, without leap seconds.
_INSTANT = re.compile(rf"\d{{4}}-\d\d-\d\d[Tt]{_TIME}:[0-5]\d(\.\d+)?([Zz]|[+-]{_TIME})", re.ASCII)
_CUSTOMER = re.compile(r"[1-9][0-9]{0,18}")
_LONGEST_INTEGER = 40
_LONGEST_NUMBER = 100  # in quotes
# Stands for each field that is missing or at fault, while the others are checked.
_SOUND: Record = {
    "request_id": "-",
    "customer_id": 1,
    "service": "-",
    "units_consumed": 1,
    "price_per_unit": 0,
}
_GRACE = timedelta(days=3)
_SKEW = timedelta(minutes=5)
_LONGEST_LATENESS = timedelta(days=366)


class Reply(NamedTuple):
    """An answer of the service; ``content`` is what its JSON says."""

    status: int
    content: Any
    headers: dict[str, str]


class MemoryService:
    """Stores each id once. Safe to share between threads.

    unknown_customers  ids for which there is no customer; all others exist
    any_time           whether occurred_at may lie any time ago or ahead, and is never late
    refused_ids        ids that are refused as if their customer were unknown
    stored             the records as they were answered, by id
    batches            how many records each array had
    """

    def __init__(self, *, unknown_customers: Collection[int] = (), any_time: bool = False) -> None:
        self.unknown_customers = unknown_customers
        self.any_time = any_time
        self.refused_ids: set[str] = set()
        self.stored: dict[str, Record] = {}
        self.usages: dict[str, Usage] = {}
        self.batches: list[int] = []
        self._bills: dict[tuple[int, str], int] = {}
        self._lock = threading.Lock()

    def answer(self, body: bytes, *, idempotency_key: str | None = None) -> Reply:
        """The answer to one record or an array of records.

        ``idempotency_key`` is the header of that name; None if there was none.
        """
        try:
            sent = _DECODER.decode(body.decode())
        except (ValueError, RecursionError) as error:
            return refused(400, "invalid_json", f"The body is not JSON as expected: {error}.")
        if isinstance(sent, dict):
            return self._one(sent, idempotency_key)
        if not isinstance(sent, list):
            return refused(400, "invalid_json", "The body is neither a record nor an array.")
        if not sent:
            return refused(400, "invalid_json", "The array is empty: send 1 to 1000 records.")
        if len(sent) > MOST_RECORDS:
            detail = "Send at most 1000 records at once."
            return refused(413, "too_many_records", detail, {"Connection": "close"})
        self.batches.append(len(sent))
        replies = [self._one(record) for record in sent]
        results = [_result(record, reply) for record, reply in zip(sent, replies, strict=True)]
        statuses = [reply.status for reply in replies]
        summary = {"created": statuses.count(201), "replayed": statuses.count(200)}
        summary["rejected"] = len(statuses) - sum(summary.values())
        return Reply(207, {"results": results, "summary": summary}, {})

    def _one(self, sent: Any, idempotency_key: str | None = None) -> Reply:
        try:
            usage = _usage(sent)
            if idempotency_key not in (None, usage.request_id):
                raise _invalid(
                    "Idempotency-Key",
                    "mismatch",
                    "The header Idempotency-Key is not the request_id. Only the request_id counts:"
                    " send the same one with every try, and leave the header out or make it equal.",
                )
            with self._lock:
                known = self.usages.get(usage.request_id)
                return self._new(usage) if known is None else self._known(usage, known)
        except ValidationError as error:
            detail = " ".join(fault.detail for fault in error.fields)
            errors = [asdict(fault) for fault in error.fields]
            return refused(400, "validation_error", detail, errors=errors)

    def _known(self, usage: Usage, known: Usage) -> Reply:
        differing = [
            name for name in _CONTENT if getattr(usage, name) not in (None, getattr(known, name))
        ]
        if not differing:
            return Reply(200, self.stored[usage.request_id], {"Idempotent-Replayed": "true"})
        code = "occurred_at_conflict" if differing == ["occurred_at"] else "request_id_conflict"
        return refused(
            409,
            code,
            "A record with this request_id is stored already. If this is a retry, stop: it is"
            f" recorded. It differs in {', '.join(differing)}, so make the id, occurred_at and the"
            " bytes once, before the first try. A new request_id is only for another fact, or to"
            " report this one again after billing has voided the stored record.",
            conflicting_fields=differing,
        )

    def _new(self, usage: Usage) -> Reply:
        if usage.customer_id in self.unknown_customers or usage.request_id in self.refused_ids:
            detail = (
                "There is no customer with this id. Check it, or ask billing to add the customer;"
                " then send the same request_id again."
            )
            fault = {"field": "customer_id", "code": "unknown_customer", "detail": detail}
            return refused(404, "unknown_customer", detail, errors=[fault])
        now = datetime.now(UTC)
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)
        at = usage.occurred_at or now
        if at > now + _SKEW and not self.any_time:
            detail = "occurred_at is more than 5 minutes ahead of the service's clock."
            raise _invalid("occurred_at", "in_the_future", detail)
        if at < now - _LONGEST_LATENESS and not self.any_time:
            detail = "occurred_at is more than 366 days ago."
            raise _invalid("occurred_at", "too_long_ago", detail)
        next_month = (at.replace(day=1, hour=0, minute=0) + timedelta(days=32)).replace(day=1)
        ends = next_month.replace(second=0, microsecond=0) + _GRACE
        late = now >= ends and not self.any_time
        month = f"{now if late else at:%Y-%m}"
        bill_id = self._bills.setdefault((usage.customer_id, month), len(self._bills) + 1)
        self.usages[usage.request_id] = replace(usage, occurred_at=at)
        record = self.stored[usage.request_id] = {
            "request_id": usage.request_id,
            "customer_id": usage.customer_id,
            "service": usage.service,
            "units_consumed": _plain(usage.units_consumed),
            "price_per_unit": _plain(usage.price_per_unit),
            "amount": _plain(product(usage.units_consumed, usage.price_per_unit)),
            "occurred_at": _text(at),
            "recorded_at": _text(now),
            "bill": {"id": bill_id, "month": month},
            "late": late,
        }
        return Reply(201, record, {})


def problem(status: int, code: str, detail: str = "", **more: Any) -> Record:
    """The content of an answer that refuses (RFC 9457)."""
    title = code.replace("_", " ").capitalize()
    return {
        "type": f"urn:usage-billing:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail or f"{title}.",
        "code": code,
        **more,
    }


def refused(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None, **more: object
) -> Reply:
    """An answer with a problem."""
    return Reply(status, problem(status, code, detail, **more), headers or {})


def _usage(sent: Any) -> Usage:
    """The record as the client's own class, which has the service's bounds.

    Raises ValidationError with every fault.
    """
    if not isinstance(sent, dict):
        raise _invalid("record", "type", "A record is an object with named fields.")
    faults: list[FieldError] = []
    given: Record = {}
    for key, value in sent.items():
        name = _NAMES.get(key)
        if name is None:
            faults.append(FieldError(key[:40], "unknown", f"Fields: {', '.join(_FIELDS)}."))
        elif name in given:
            faults.append(
                FieldError(name, "twice", f"{name} is sent as both snake_case and camelCase.")
            )
        else:
            given[name] = value
    missing = [name for name in _REQUIRED if name not in given]
    faults += [FieldError(name, "required", f"{name} is missing.") for name in missing]
    sound = dict(_SOUND)
    for name, value in given.items():
        try:
            sound[name] = _value(name, value)
        except ValueError as unfit:
            faults.append(FieldError(name, "type", f"{name} {unfit}."))
    try:
        usage = Usage(**sound)
    except ValidationError as error:
        faults += error.fields
    if faults:
        raise ValidationError("", fields=faults)
    return usage


def _value(name: str, value: Any) -> Any:
    """The value as the client's own class takes it; raises ValueError with the fault."""
    if value is None:
        raise ValueError("is null: leave the field out")
    if name == "customer_id" and isinstance(value, str) and _CUSTOMER.fullmatch(value):
        return int(value)
    is_number = name in {"units_consumed", "price_per_unit"}
    if is_number and isinstance(value, str) and len(value) > _LONGEST_NUMBER:
        raise ValueError(f"has more than {_LONGEST_NUMBER} characters")
    if name != "occurred_at":
        return value
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper())
        except ValueError:
            pass  # such as the 31st of February
    raise ValueError("is not a time with an offset, such as 2026-11-22T10:00:00Z")


def _invalid(field: str, code: str, detail: str) -> ValidationError:
    return ValidationError("", fields=[FieldError(field, code, detail)])


def id_of(sent: Any) -> str | None:
    """The id of a record as it was sent, under either name; None if it is no text."""
    name = sent.get("request_id", sent.get("requestId")) if isinstance(sent, dict) else None
    return name if isinstance(name, str) else None


def _result(sent: Any, reply: Reply) -> Record:
    request_id = id_of(sent)
    if request_id is None or len(request_id) > 128 or not request_id.isprintable():
        request_id = None
    name = "record" if reply.status < 400 else "error"
    return {"status": reply.status, "request_id": request_id, name: reply.content}


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent that Decimal cannot hold
        return Decimal("Infinity")


def _plain(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(at: datetime) -> str:
    return f"{at.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


_NAMES = {alias: name for name in _FIELDS for alias in (name, camel_case(name))}
_DECODER = json.JSONDecoder(
    object_pairs_hook=unique_keys,
    # The beginning of a longer one is out of every field's bounds too.
    parse_int=lambda text: int(text[:_LONGEST_INTEGER]),
    parse_float=_number,
    parse_constant=no_constant,
)
