"""Each refusal of the contract: its status and code, and that nothing changed."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client
from pytest_django.fixtures import Settings

from usage.database.transactions import DatabaseUnavailable
from usage.ledger import record as recording
from usage.models import Bill, Customer, DailyUsage, UsageRecord
from usage.tests.conftest import DatabaseClock, Post
from usage.tests.factories import usage_body

pytestmark = pytest.mark.django_db

NOTHING = (0, 0, 0)


def stored() -> tuple[int, int, int]:
    return Bill.objects.count(), UsageRecord.objects.count(), DailyUsage.objects.count()


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """The problem details of a response, which must be one of this status and code."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert (document["status"], document["code"]) == (status, code)
    assert document.keys() >= {"type", "title", "detail"}
    return document


def errors(document: dict[str, Any]) -> dict[str, str]:
    return {error["field"]: error["code"] for error in document["errors"]}


@pytest.mark.once
@pytest.mark.no_cover
@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("request_id", "", "invalid"),
        ("request_id", "x" * 129, "invalid"),
        ("request_id", "with space", "invalid"),
        ("request_id", "void fact", "invalid"),
        ("request_id", "tab\t", "invalid"),
        ("request_id", "line\n", "invalid"),
        ("request_id", "ümlaut", "invalid"),
        ("request_id", "\x7f", "invalid"),
        ("request_id", 17, "type"),
        ("request_id", None, "type"),
        ("request_id", ["a"], "type"),
        ("customer_id", 0, "range"),
        ("customer_id", -1, "range"),
        ("customer_id", 2**63, "range"),
        ("customer_id", 10**39, "range"),
        ("customer_id", 10**60, "range"),
        ("customer_id", -(10**60), "range"),
        ("customer_id", True, "type"),
        ("customer_id", 123.0, "type"),
        ("customer_id", None, "type"),
        ("service", "", "length"),
        ("service", "  \u2003 ", "length"),
        ("service", "x" * 101, "length"),
        ("service", "\u0958" * 51, "length"),
        ("service", "e\u0301" * 101, "length"),
        ("service", "a\x00b", "characters"),
        ("service", "a\nb", "characters"),
        ("service", "a\u200bb", "characters"),
        ("service", "a\u202eb", "characters"),
        ("service", "a\u2028b", "characters"),
        ("service", "a\ud800b", "characters"),
        ("service", 5, "type"),
        ("units_consumed", 0, "min_value"),
        ("units_consumed", "0.000000", "min_value"),
        ("units_consumed", -1, "min_value"),
        ("units_consumed", 10**12, "digits"),
        ("units_consumed", 10**60, "digits"),
        ("units_consumed", -(10**60), "min_value"),
        ("units_consumed", 0.0000001, "digits"),
        ("units_consumed", "58.0000001", "digits"),
        ("units_consumed", "-58", "invalid"),
        ("units_consumed", "+58", "invalid"),
        ("units_consumed", "5e1", "invalid"),
        ("units_consumed", " 58", "invalid"),
        ("units_consumed", "1_000", "invalid"),
        ("units_consumed", "\u0665", "invalid"),
        ("units_consumed", "", "invalid"),
        ("units_consumed", ".5", "invalid"),
        ("units_consumed", "5.", "invalid"),
        ("units_consumed", "NaN", "invalid"),
        ("units_consumed", "1" * 101, "invalid"),
        ("units_consumed", True, "type"),
        ("units_consumed", None, "type"),
        ("units_consumed", {"a": 1}, "type"),
        ("price_per_unit", -0.01, "min_value"),
        ("price_per_unit", 10**6, "digits"),
        ("price_per_unit", 1e-13, "digits"),
        ("price_per_unit", "0.1234567890123", "digits"),
        ("price_per_unit", False, "type"),
        ("occurred_at", "2026-11-22", "type"),
        ("occurred_at", "2026-11-22T10:00:00", "type"),
        ("occurred_at", "2026-11-22 10:00:00Z", "type"),
        ("occurred_at", "2026-13-22T10:00:00Z", "type"),
        ("occurred_at", "2026-11-22T24:00:00Z", "type"),
        ("occurred_at", "2026-11-22T10:00:60Z", "type"),
        ("occurred_at", "2026-11-22T10:00:00+25:00", "type"),
        ("occurred_at", "0001-01-01T00:00:00+14:00", "type"),
        ("occurred_at", "2026-W47-1T10:00:00Z", "type"),
        ("occurred_at", 1795341600, "type"),
        ("occurred_at", None, "type"),
    ],
)
def test_a_field_out_of_its_bounds(
    customer: Customer, post: Post, field: str, value: Any, code: str
) -> None:
    response = post(json.dumps(usage_body(**{field: value})))

    assert errors(problem(response, 400, "validation_error")) == {field: code}
    assert stored() == NOTHING


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *[
            (text, "type")
            for text in ("", "+1", "-1", " 1", "1\n", "01", "1_0", "1.0", "1e3", "\u0661")
        ],
        *[(text, "range") for text in ("0", "9223372036854775808", "9" * 5000)],
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_a_customer_id_as_text_is_plain_digits(
    customer: Customer, post: Post, text: str, code: str
) -> None:
    response = post(usage_body(customer_id=text))

    assert errors(problem(response, 400, "validation_error")) == {"customer_id": code}
    assert stored() == NOTHING


def test_every_failing_field_is_named_not_only_the_first(customer: Customer, post: Post) -> None:
    response = post({"request_id": "", "customer_id": "one", "color": "red"})

    assert errors(problem(response, 400, "validation_error")) == {
        "color": "unknown",
        "request_id": "invalid",
        "customer_id": "type",
        "service": "required",
        "units_consumed": "required",
        "price_per_unit": "required",
    }


def test_the_product_of_units_and_price_has_a_limit(customer: Customer, post: Post) -> None:
    response = post(usage_body(units_consumed=10**7, price_per_unit=10**5))

    assert errors(problem(response, 400, "validation_error")) == {"units_consumed": "amount_limit"}


def test_of_very_many_unknown_fields_the_first_are_named(customer: Customer, post: Post) -> None:
    response = post({**usage_body(), **{f"x{n}": n for n in range(10_000)}})

    document = problem(response, 400, "validation_error")
    assert [error["field"] for error in document["errors"]][-2:] == ["x19", "record"]
    assert document["errors"][-1]["detail"] == "9980 more fields are unknown."
    assert len(response.content) < 10_000


def test_an_unknown_field_is_named_in_characters_that_any_caller_can_read(
    customer: Customer, post: Post
) -> None:
    response = post({**usage_body(), "\ud800": 1, "é": 1})

    assert errors(problem(response, 400, "validation_error")) == {
        "\\ud800": "unknown",
        "é": "unknown",
    }


def test_a_service_that_would_take_seconds_to_normalise_takes_none(
    customer: Customer, post: Post
) -> None:
    slow = usage_body(service="a" + "\u0301" * 200_000 + "\u0316" * 200_000)

    response = post(json.dumps(slow, ensure_ascii=False).encode())

    assert errors(problem(response, 400, "validation_error")) == {"service": "length"}


def test_a_field_in_both_spellings(customer: Customer, post: Post) -> None:
    response = post({**usage_body(), "unitsConsumed": 58})

    assert errors(problem(response, 400, "validation_error")) == {"units_consumed": "twice"}


@pytest.mark.parametrize(
    "body",
    [
        b" ",
        b"{",
        b"nonsense",
        b'{"request_id": "a"} trailing',
        b'{"request_id": "a", "request_id": "a"}',
        b'{"bill": {"id": 1, "id": 2}}',
        b'{"units_consumed": NaN}',
        b'{"units_consumed": -Infinity}',
        b"\xef\xbb\xbf{}",
        b'{"service": "\xff"}',
        '{"service": "a"}'.encode("utf-16"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[]",
        b'"text"',
        b"17",
        b"null",
        b"true",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_neither_a_record_nor_an_array(
    customer: Customer, post: Post, body: bytes
) -> None:
    problem(post(body), 400, "invalid_json")
    assert stored() == NOTHING


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"service": "a\nb"}', "invalid control character at line 1, column 15"),
        (b'{"service": "a', "unterminated string starting at line 1, column 13"),
        (b"{\n7}", "expecting property name enclosed in double quotes at line 2, column 1"),
    ],
)
def test_the_place_at_which_a_body_stops_being_json(post: Post, body: bytes, where: str) -> None:
    assert problem(post(body), 400, "invalid_json")["detail"] == f"The body is not JSON: {where}."


@pytest.mark.measured
def test_usage_of_an_unknown_customer(post: Post) -> None:
    problem(post(usage_body(customer_id=999)), 404, "unknown_customer")
    assert stored() == NOTHING


@pytest.mark.parametrize(
    ("occurred_at", "code"),
    [
        ("2026-11-22T10:05:00.001Z", "in_the_future"),
        ("2025-11-21T09:59:59.999Z", "too_long_ago"),
        ("0001-01-01T00:00:00Z", "too_long_ago"),
        ("9999-12-31T23:59:59Z", "in_the_future"),
    ],
)
def test_usage_out_of_time(
    customer: Customer, post: Post, database_clock: DatabaseClock, occurred_at: str, code: str
) -> None:
    database_clock.set("2026-11-22T10:00:00Z")

    response = post(usage_body(occurred_at=occurred_at))

    assert errors(problem(response, 400, "validation_error")) == {"occurred_at": code}
    assert stored() == NOTHING


RETRY_STOPS = (
    "A record with this request_id is stored already. If this is a retry, stop: it is recorded."
)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"customer_id": 456}, "request_id_conflict"),
        ({"service": "Other"}, "request_id_conflict"),
        ({"units_consumed": "58.000001"}, "request_id_conflict"),
        ({"price_per_unit": "0.050000000001"}, "request_id_conflict"),
        ({"service": "Other", "occurred_at": "2026-11-22T09:00:00Z"}, "request_id_conflict"),
        ({"occurred_at": "2026-11-22T09:00:00Z"}, "occurred_at_conflict"),
    ],
    ids=str,
)
def test_a_conflict_names_the_fields_that_differ_and_tells_a_retry_to_stop(
    customer: Customer, post: Post, database_clock: DatabaseClock, changes: Any, code: str
) -> None:
    database_clock.set("2026-11-22T10:00:00Z")
    body = usage_body(units_consumed="58", price_per_unit="0.05")
    post(body)

    response = post({**body, **changes})

    document = problem(response, 409, code)
    assert document["conflicting_fields"] == list(changes)
    assert document["detail"].startswith(RETRY_STOPS)
    assert "Database Hosting" not in response.content.decode()
    assert stored() == (1, 1, 1)


@pytest.mark.parametrize("body", [[], [{"request_id": "x"}]], ids=["nothing", "records"])
def test_an_idempotency_key_means_nothing_on_an_array(
    customer: Customer, post: Post, body: Any
) -> None:
    response = post(body, **{"Idempotency-Key": "another"})

    assert "Idempotency-Key" not in response.content.decode()


@pytest.mark.parametrize("key", ["another", "", "BODY", '"body"'])
def test_an_idempotency_key_other_than_the_request_id(
    customer: Customer, post: Post, key: str
) -> None:
    response = post(usage_body(request_id="body"), **{"Idempotency-Key": key})

    document = problem(response, 400, "validation_error")
    assert errors(document) == {"Idempotency-Key": "mismatch"}
    assert "Only request_id decides" in document["detail"]
    assert stored() == NOTHING


def test_an_idempotency_key_that_is_the_request_id_is_welcome(
    customer: Customer, post: Post
) -> None:
    body = usage_body(request_id="web:17")

    answers = [post(body, **{"Idempotency-Key": "web:17"}) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 200]


def test_a_conflict_is_found_before_an_unknown_customer_or_a_time_out_of_bounds(
    customer: Customer, post: Post
) -> None:
    body = usage_body()
    post(body)

    response = post({**body, "customer_id": 999, "occurred_at": "1999-01-01T00:00:00Z"})

    document = problem(response, 409, "request_id_conflict")
    assert document["conflicting_fields"] == ["customer_id", "occurred_at"]


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete", "head", "options", "trace"])
def test_another_method(client: Client, api_key: str, method: str) -> None:
    response = getattr(client, method)(
        "/api/v1/usage/", headers={"Authorization": f"Bearer {api_key}"}
    )

    assert response.status_code == 405
    assert response["Allow"] == "POST"
    assert response["Content-Type"] == "application/problem+json"
    if method == "get":  # most often a POST that was redirected
        assert "the address that it is redirected to" in response.json()["detail"]


@pytest.mark.parametrize(
    ("content_type", "headers"),
    [
        ("text/plain", {}),
        ("application/x-www-form-urlencoded", {}),
        ("application/json; charset=latin-1", {}),
        ("application/problem+json", {}),
        ("", {}),
        ("application/json", {"Content-Encoding": "gzip"}),
    ],
)
def test_another_media_type(
    client: Client, api_key: str, content_type: str, headers: dict[str, str]
) -> None:
    response = client.post(
        "/api/v1/usage/",
        b"{}",
        content_type=content_type,
        headers={"Authorization": f"Bearer {api_key}", **headers},
    )

    problem(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"],
)
def test_json_in_utf8_however_it_is_spelled(
    client: Client, customer: Customer, api_key: str, content_type: str
) -> None:
    response = client.post(
        "/api/v1/usage/",
        json.dumps(usage_body()).encode(),
        content_type=content_type,
        headers={"Authorization": f"Bearer {api_key}", "Accept": "text/html"},
    )

    assert response.status_code == 201


def test_a_body_over_2_mib(customer: Customer, post: Post) -> None:
    body = json.dumps(usage_body()).encode()

    assert post(body + b" " * (2 * 1024**2 - len(body))).status_code == 201
    response = post(body + b" " * (2 * 1024**2 - len(body) + 1))
    problem(response, 413, "body_too_large")
    assert response["Connection"] == "close"


def test_over_1000_records(customer: Customer, post: Post) -> None:
    response = post([usage_body() for _ in range(1001)])

    problem(response, 413, "too_many_records")
    assert response["Connection"] == "close"
    assert stored() == NOTHING


@pytest.mark.parametrize(
    "path",
    ["/api", "/api/", "/api/v2/usage/", "/api/v1/usage//", "/api/v1/usage/1", "/api/v1/usage%0A"],
)
def test_an_unknown_address_under_api(client: Client, path: str) -> None:
    for answer in (client.get(path), client.post(path)):
        problem(answer, 404, "not_found")
        # No page either, which needs files that only collectstatic makes.
        assert not answer.templates


@pytest.mark.parametrize("path", ["/api/schema", "/api/schema/", "/api/docs", "/api/docs/"])
def test_the_description_takes_nothing(client: Client, settings: Settings, path: str) -> None:
    settings.DEBUG = True

    for refused in (client.post(path), client.options(path)):
        problem(refused, 405, "method_not_allowed")
        assert refused["Allow"] == "GET, HEAD"
        assert "POST" not in refused.json()["title"]
        assert "Allow header" in refused.json()["detail"]


def test_an_unknown_host_under_api(client: Client) -> None:
    response = client.post("/api/v1/usage/", headers={"Host": "evil.example"})

    problem(response, 400, "bad_request")


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    return fail


def test_an_unavailable_database(
    customer: Customer, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "record", failing(DatabaseUnavailable("It is away.")))

    response = post(usage_body())

    problem(response, 503, "service_unavailable")
    assert int(response["Retry-After"]) >= 1


@pytest.mark.parametrize("error", [OperationalError("a bug in the SQL"), KeyError("a bug")])
def test_a_crash_is_a_problem_and_no_excuse(
    client: Client,
    customer: Customer,
    post: Post,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    monkeypatch.setattr(recording, "record", failing(error))
    client.raise_request_exception = False

    problem(post(usage_body()), 500, "internal_error")
