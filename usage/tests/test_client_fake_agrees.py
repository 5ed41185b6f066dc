"""The service in memory answers as the real one: status, code, fields at fault, form."""

from __future__ import annotations

import contextlib
import http.client
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from billing_client.fake.grading import Times
from billing_client.fake.server import FakeServer
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
    "a customer of many digits": [{**SOUND, "customer_id": 10**60}],
    "a late record": [at(NOW - timedelta(days=60))],
    "a time ahead": [at(NOW + timedelta(days=1))],
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
    "every field at fault": [
        {"request_id": "a b", "customerId": True, "units_consumed": -1, "occurred_at": 7, "x": 1}
    ],
    "an amount and another field at fault": [
        {**SOUND, "customer_id": 0, "units_consumed": 10**11, "price_per_unit": 10}
    ],
    "a number of a hundred characters": [{**SOUND, "units_consumed": f"1.{'0' * 98}"}],
    "a number of more": [{**SOUND, "units_consumed": f"1.{'0' * 99}"}],
    "an exponent beyond all bounds": [
        json.dumps(SOUND).replace("2.5", "1e999999999999999999999").encode()
    ],
    "a number that Python reads as no int": [json.dumps(SOUND).replace("2.5", "9" * 5000).encode()],
    "a time with many digits": [{**SOUND, "occurred_at": f"{NOW:%FT%T}.{'9' * 100}Z"}],
    "ids that cannot be shown": [
        [{**SOUND, "request_id": name} for name in (7, ["a"], "x" * 129, "a\nb", "ä b", None)]
    ],
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


@pytest.mark.parametrize(
    "name", ["a conflict", "a conflict of the time alone", "an unknown customer"]
)
def test_it_says_in_the_same_words_what_the_client_adds_no_advice_to(
    customer: Customer, post: Post, name: str
) -> None:
    fake = MemoryService(unknown_customers={STRANGER})
    for one in SENT[name]:
        reply = fake.answer(body_of(one))
        answer = post(body_of(one))
    assert reply.content["detail"] == answer.json()["detail"]


JSON = {"Content-Type": "application/json"}
KEY = {"Authorization": "Bearer KEY"}
ENDPOINT = "/api/v1/usage/"
REQUESTS: dict[str, tuple[str, str, dict[str, str], bytes]] = {
    "no slash at the end": ("POST", ENDPOINT[:-1], JSON | KEY, b""),
    "two slashes at the end": ("POST", f"{ENDPOINT}/", JSON | KEY, b""),
    "a query": ("POST", f"{ENDPOINT}?page=1", JSON | KEY, b""),
    "an escaped letter": ("POST", "/api/v1/usag%65/", JSON | KEY, b""),
    "a scheme in small letters": ("POST", ENDPOINT, JSON | {"Authorization": "bearer  KEY "}, b""),
    "no key": ("POST", ENDPOINT, JSON, b""),
    "an empty key": ("POST", ENDPOINT, JSON | {"Authorization": "Bearer "}, b""),
    "another scheme": ("POST", ENDPOINT, JSON | {"Authorization": "Basic KEY"}, b""),
    "no key and another type": ("POST", ENDPOINT, {"Content-Type": "text/plain"}, b""),
    "another type": ("POST", ENDPOINT, KEY | {"Content-Type": "text/plain"}, b""),
    "UTF-8 in quotes": (
        "POST",
        ENDPOINT,
        KEY | {"Content-Type": 'application/json;charset="UTF-8"'},
        b"",
    ),
    "another charset": (
        "POST",
        ENDPOINT,
        KEY | {"Content-Type": "application/json; charset=latin1"},
        b"",
    ),
    "a compressed body": ("POST", ENDPOINT, JSON | KEY | {"Content-Encoding": "gzip"}, b""),
    "2 MiB": ("POST", ENDPOINT, JSON | KEY, b" " * (2 * 1024 * 1024 - len(body_of(SOUND)))),
    "more than 2 MiB": ("POST", ENDPOINT, JSON | KEY, b" " * 2 * 1024 * 1024),
    "GET": ("GET", ENDPOINT, KEY, b""),
    "PUT": ("PUT", ENDPOINT, JSON | KEY, b""),
    "GET without a key": ("GET", ENDPOINT, {}, b""),
}
# Of each answer; the client does not look at others.
HEADERS = ("Content-Type", "WWW-Authenticate", "Allow")


def ask_fake(method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
    """The answer to the request sent twice, since a fault is arranged for the first."""
    answer = None
    with FakeServer(times=Times(silence=0.1, outage=0)) as fake:
        for _ in range(2):
            connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=5)
            broken = contextlib.suppress(OSError, http.client.HTTPException)
            with contextlib.closing(connection), broken:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                answer = response.status, response.read(), response.headers
    return answer


@pytest.mark.parametrize(
    ("method", "path", "headers", "spaces"), REQUESTS.values(), ids=list(REQUESTS)
)
def test_its_server_lets_in_what_the_service_does(
    customer: Customer,
    client: Client,
    api_key: str,
    method: str,
    path: str,
    headers: dict[str, str],
    spaces: bytes,
) -> None:
    body = b"" if method == "GET" else body_of(SOUND) + spaces
    given = {name: value.replace("KEY", api_key) for name, value in headers.items()}
    kind = given.pop("Content-Type", "")
    for _ in range(2):
        answer = client.generic(method, path, body, kind, headers=given)
    status, content, told = ask_fake(method, path, headers, body)
    assert (status, json.loads(content).get("code")) == (
        answer.status_code,
        answer.json().get("code"),
    )
    if status >= 400:
        assert [told[name] for name in HEADERS] == [answer.get(name) for name in HEADERS]
