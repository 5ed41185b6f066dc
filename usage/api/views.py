"""The one endpoint of the API."""

from __future__ import annotations

import datetime as dt
import json
import logging
from decimal import Decimal
from functools import lru_cache
from typing import Any, assert_never, cast

from django.db import Error
from django.http import HttpResponse
from rest_framework import exceptions
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from usage.api import problems
from usage.api.authentication import ApiKeyAuthentication, Team
from usage.api.openapi import UsageSchema, describe_usage
from usage.api.parsing import check_media_type, drop_body, parse_json, read_body
from usage.api.problems import FieldError, Problem
from usage.api.serializers import MOST_RECORDS, RecordReader
from usage.api.traffic import traffic
from usage.database.transactions import DatabaseUnavailable, is_unavailable
from usage.ledger import record as recording
from usage.ledger.facts import Conflict, Fact, Outcome, Recorded, Refused, StoredRecord
from usage.money import exact_amount
from usage.validators import REQUEST_ID_LENGTH

logger = logging.getLogger(__name__)
_reader = RecordReader()
_json = json.JSONEncoder().encode  # what json.dumps comes to, by a shorter way


class UsageView(APIView):
    """Records usage on the customers' current bills, each fact exactly once."""

    authentication_classes = (ApiKeyAuthentication,)
    permission_classes = (IsAuthenticated,)
    http_method_names = ("post",)
    schema = UsageSchema()

    # Who asks, once that is known, and what was sent, once that is read.
    team: Team | None = None
    body: Any = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Let the caller in; there is no format, version or throttle to find out."""
        self.perform_authentication(request)
        self.check_permissions(request)
        self.team = cast("Team", request.user)

    @describe_usage
    def post(self, request: Request) -> HttpResponse:
        check_media_type(request._request)
        body = self.body = parse_json(read_body(request._request))
        api_key_id = cast("Team", self.team).api_key_id
        if isinstance(body, list):
            return _batch(body, api_key_id)
        if not isinstance(body, dict):
            raise problems.invalid_json("The body is one record, or an array of records.")
        (outcome,) = recording.record([_reader.read(body)], reported_by_id=api_key_id)
        return _single(outcome, api_key_id)

    def handle_exception(self, exc: Exception) -> HttpResponse:  # type: ignore[override]  # rendered already
        problem = _problem_of(exc)
        if problem is None:
            raise exc
        if self.team and problem.status < 500:  # with a 503 nothing was decided
            traffic.refused(self.team.api_key_id, [(problem, self.body)])
        self.headers = {}
        drop_body(self.request._request)
        return problem.response()


def _single(outcome: Outcome, api_key_id: int) -> HttpResponse:
    if not isinstance(outcome, Recorded):
        raise _refusal(outcome)
    traffic.recorded(api_key_id, created=int(not outcome.replayed), replayed=int(outcome.replayed))
    headers = {"Idempotent-Replayed": "true"} if outcome.replayed else {}
    return HttpResponse(
        record_json(outcome.record),
        status=200 if outcome.replayed else 201,
        content_type="application/json",
        headers=headers,
    )


def _batch(items: list[Any], api_key_id: int) -> HttpResponse:
    if not items:
        raise problems.invalid_json("The array is empty: send 1 to 1000 records.")
    if len(items) > MOST_RECORDS:
        raise Problem(
            413,
            "too_many_records",
            f"The array has {len(items)} records: send at most {MOST_RECORDS} at once.",
            headers={"Connection": "close"},
        )
    read = [_read(item) for item in items]
    facts = [fact for fact in read if isinstance(fact, Fact)]
    outcomes = iter(recording.record(facts, reported_by_id=api_key_id) if facts else ())
    results = [_result(next(outcomes)) if isinstance(fact, Fact) else fact for fact in read]
    answers = [_answer(item, result) for item, result in zip(items, results, strict=True)]
    statuses = [status for status, _ in answers]
    refused = [
        (result, item)
        for item, result in zip(items, results, strict=True)
        if isinstance(result, Problem)
    ]
    summary = {
        "created": statuses.count(201),
        "replayed": statuses.count(200),
        "rejected": len(refused),
    }
    traffic.recorded(api_key_id, created=summary["created"], replayed=summary["replayed"])
    if refused:
        traffic.refused(api_key_id, refused)
    written = ", ".join([result for _, result in answers])
    return HttpResponse(
        f'{{"results": [{written}], "summary": {json.dumps(summary)}}}',
        status=207,
        content_type="application/json",
    )


def _read(item: Any) -> Fact | Problem:
    try:
        return _reader.read(item)
    except Problem as problem:
        return problem


def _result(outcome: Outcome) -> Recorded | Problem:
    return outcome if isinstance(outcome, Recorded) else _refusal(outcome)


def _answer(item: Any, result: Recorded | Problem) -> tuple[int, str]:
    """Return the status of one item of a batch, and its result as JSON."""
    if isinstance(result, Recorded):
        status = 200 if result.replayed else 201
        request_id = _json(result.record.request_id)
        record = record_json(result.record)
        return status, f'{{"status": {status}, "request_id": {request_id}, "record": {record}}}'
    document = {
        "status": result.status,
        "request_id": _request_id(item),
        "error": result.document(),
    }
    return result.status, json.dumps(document)


def _request_id(item: Any) -> str | None:
    """Return the id that a refused item names, if it names one that can be read."""
    if not isinstance(item, dict):
        return None
    request_id = item.get("request_id", item.get("requestId"))
    if not isinstance(request_id, str) or len(request_id) > REQUEST_ID_LENGTH:
        return None
    return request_id if request_id.isprintable() else None


def _refusal(outcome: Conflict | Refused) -> Problem:
    match outcome:
        case Conflict(fields):
            return Problem(
                409,
                "request_id_conflict",
                f"This request_id is stored with other content ({', '.join(fields)} differ):"
                " send a new fact under a new id.",
                conflicting_fields=fields,
            )
        case Refused(field, "unknown_customer", detail):
            return Problem(
                404,
                "unknown_customer",
                detail,
                errors=[FieldError(field, "unknown_customer", detail)],
            )
        case Refused(field, code, detail):
            return problems.validation_error([FieldError(field, code, detail)])
    assert_never(outcome)


def _problem_of(error: Exception) -> Problem | None:
    match error:
        case Problem():
            return error
        case exceptions.AuthenticationFailed() | exceptions.NotAuthenticated():
            return Problem(
                401,
                "not_authenticated",
                "Show a live API key as 'Authorization: Bearer <key>'.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        case exceptions.MethodNotAllowed():
            return Problem(
                405,
                "method_not_allowed",
                "Usage is reported by POST.",
                headers={"Allow": "POST"},
            )
        case DatabaseUnavailable() | Error() if is_unavailable(error):
            logger.warning("The database is unavailable.", exc_info=error)
            return problems.unavailable()
    return None


def record_json(record: StoredRecord) -> str:
    """Return a record as it is answered, the first time and every time.

    Written out, since json.dumps of a dictionary takes three times as long; only the two texts
    that callers choose need its escapes.
    """
    units, price = record.units, record.price_per_unit
    return (
        f'{{"request_id": {_json(record.request_id)}, "customer_id": {record.customer_id},'
        f' "service": {_service(record.service)}, "units_consumed": "{plain(units)}",'
        f' "price_per_unit": "{_price(price)}", "amount": "{plain(exact_amount(units, price))}",'
        f' "occurred_at": "{_rfc3339(record.occurred_at)}",'
        f' "recorded_at": "{_rfc3339(record.recorded_at)}",'
        f' "bill": {{"id": {record.bill_id}, "month": "{_month(record.bill_month)}"}},'
        f' "late": {"true" if record.late else "false"}}}'
    )


def plain(number: Decimal) -> str:
    """Return a decimal without exponent and trailing zeros."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# What the records of a batch have in common.
_price = lru_cache(maxsize=256)(plain)
_service = lru_cache(maxsize=256)(_json)


@lru_cache(maxsize=64)
def _month(month: dt.date) -> str:
    return f"{month:%Y-%m}"


@lru_cache(maxsize=64)
def _rfc3339(instant: dt.datetime) -> str:
    utc = instant.astimezone(dt.UTC).replace(tzinfo=None)
    return utc.isoformat(timespec="milliseconds") + "Z"
