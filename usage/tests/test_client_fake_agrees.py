"""The service in memory answers as the real one: status, code, fields at fault, form."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing_client.fake.service import MemoryService
from usage.models import Customer
from usage.tests.conftest import Post

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC).replace(microsecond=0)
STRANGER = 10**9
SOUND: dict[str, Any] = {
    "request_id": "cdn:17",
    "customer_id": 123,
    "service": "CDN Storage",
    "units_consumed": 2.5,
    "price_per_unit": "0.40",
}


def at(instant: datetime) -> dict[str, Any]:
    return {**SOUND, "occurred_at": instant.isoformat()}


CAMEL = {
    "requestId": "cdn:17",
    "customerId": 123,
    "service": "CDN Storage",
    "unitsConsumed": "2.5",
    "pricePerUnit": 0.4,
}
# Bodies that are sent one after the other; the last answers are compared.
SENT: dict[str, list[Any]] = {
    "a new record": [SOUND],
    "a record under the sample data's names": [CAMEL],
    "a replay": [SOUND, CAMEL],
    "a replay with its time": [at(NOW), at(NOW)],
    "a replay without its time": [at(NOW), SOUND],
    "a conflict": [SOUND, {**SOUND, "units_consumed": 3, "price_per_unit": 1}],
    "a conflict of the time alone": [at(NOW), at(NOW - timedelta(seconds=1))],
    "a customer as a string of digits": [{**SOUND, "customer_id": "123"}, SOUND],
    "a customer with leading zeros": [{**SOUND, "customer_id": "0123"}],
    "a customer above the bounds": [{**SOUND, "customer_id": str(2**63)}],
    "a late record": [at(NOW - timedelta(days=60))],
    "a time ahead": [at(NOW + timedelta(minutes=6))],
    "a time too long ago": [at(NOW - timedelta(days=367))],
    "an unknown customer": [{**SOUND, "customer_id": STRANGER}],
    "a replay is answered before the time is looked at": [SOUND, SOUND],
    "a missing field": [{**SOUND, "service": ...}],
    "an unknown field": [{**SOUND, "colour": "blue"}],
    "both spellings": [{**SOUND, "requestId": "cdn:17"}],
    "a null": [{**SOUND, "occurred_at": None}],
    "units of 0": [{**SOUND, "units_consumed": 0}],
    "units in words": [{**SOUND, "units_consumed": "1e3"}],
    "a customer with a point": [{**SOUND, "customer_id": 5.0}],
    "a date without a time": [{**SOUND, "occurred_at": "2026-11-22"}],
    "a time without an offset": [{**SOUND, "occurred_at": "2026-11-22T10:00:00"}],
    "a day that is not": [{**SOUND, "occurred_at": "2026-02-30T10:00:00Z"}],
    "text": ["text"],
    "an empty array": [[]],
    "too many records": [[SOUND] * 1001],
    "not JSON": [b"{"],
    "a duplicate key": [b'{"request_id": "a", "request_id": "b"}'],
    "NaN": [b'{"units_consumed": NaN}'],
    "a batch": [
        [
            SOUND,
            CAMEL,
            {**SOUND, "units_consumed": 3},
            {**SOUND, "request_id": "cdn:18", "customer_id": STRANGER},
            {**SOUND, "request_id": "a b"},
            7,
        ]
    ],
}


def body_of(sent: Any) -> bytes:
    if isinstance(sent, dict):
        sent = {name: value for name, value in sent.items() if value is not ...}
    return sent if isinstance(sent, bytes) else json.dumps(sent).encode()


def form(content: Any) -> Any:
    """The content without what each side words or numbers in its own way."""
    if not isinstance(content, dict):
        return content
    if "results" in content:
        return [form(result) for result in content["results"]], content["summary"]
    if "record" in content:
        return content["status"], content["request_id"], form(content["record"])
    if "error" in content:
        return content["status"], content["request_id"], form(content["error"])
    if "code" in content:
        faults = sorted(fault["field"] for fault in content.get("errors", ()))
        return sorted(content), content["code"], faults, content.get("conflicting_fields")
    assert isinstance(content["bill"].pop("id"), int)
    recorded_at = content.pop("recorded_at")
    if content["occurred_at"] == recorded_at:
        del content["occurred_at"]  # by the clock of each side
    return content


@pytest.mark.parametrize("key", ["cdn:17", "mine", ""])
@pytest.mark.parametrize("sent", [SOUND, [SOUND], {**SOUND, "service": ""}], ids=repr)
def test_it_looks_at_an_idempotency_key_as_the_service(
    customer: Customer, post: Post, sent: Any, key: str
) -> None:
    reply = MemoryService().answer(body_of(sent), idempotency_key=key)
    answer = post(body_of(sent), **{"Idempotency-Key": key})
    assert answer.status_code == reply.status
    assert form(answer.json()) == form(json.loads(json.dumps(reply.content)))


@pytest.mark.parametrize("sent", SENT.values(), ids=list(SENT))
def test_it_answers_as_the_service(customer: Customer, post: Post, sent: list[Any]) -> None:
    fake = MemoryService(unknown_customers={STRANGER})
    for one in sent:
        reply = fake.answer(body_of(one))
        answer = post(body_of(one))
    assert answer.status_code == reply.status
    assert form(answer.json()) == form(json.loads(json.dumps(reply.content)))
    assert answer.headers.get("Idempotent-Replayed") == reply.headers.get("Idempotent-Replayed")
