"""Records are counted by API key, day and outcome, and the last refusals are kept."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
import time_machine
from django.test import Client

from usage.api.traffic import traffic
from usage.models import ApiKey, Counts, Customer, Refusal, Traffic
from usage.tests.conftest import Post
from usage.tests.factories import usage_body
from usage.tests.staff import queries

pytestmark = pytest.mark.django_db


def counted() -> Counts:
    """Return the counts of the only key's only day."""
    traffic.flush()
    return Traffic.objects.get().counts


def refusal() -> Refusal:
    traffic.flush()
    return Refusal.objects.get()


def test_each_record_is_counted_by_its_outcome(post: Post, customer: Customer) -> None:
    body = usage_body()
    post(body)
    post(body)
    post(body | {"units_consumed": 59})
    post(body | {"units_consumed": -1})
    post(usage_body(customer_id=999))

    assert counted() == Counts(created=1, replayed=1, conflicting=1, refused=2)


def test_a_batch_counts_each_of_its_records(post: Post, customer: Customer) -> None:
    one = usage_body()
    post([one, one, one | {"units_consumed": 59}, usage_body(), usage_body(customer_id=999), 5])

    assert counted() == Counts(created=2, replayed=1, conflicting=1, refused=2)
    codes = Refusal.objects.order_by("id").values_list("code", flat=True)
    assert list(codes) == ["request_id_conflict", "unknown_customer", "validation_error"]


WHOLE_REQUESTS: dict[str, tuple[Any, dict[str, str], str]] = {
    "broken": (b"{", {}, "invalid_json"),
    "no record": (b"5", {}, "invalid_json"),
    "empty": ([], {}, "invalid_json"),
    "too many": ([usage_body()] * 1001, {}, "too_many_records"),
    "too large": (b" " * (2 * 1024 * 1024 + 1), {}, "body_too_large"),
    "compressed": ({}, {"Content-Encoding": "gzip"}, "unsupported_media_type"),
}


@pytest.mark.parametrize("request_", WHOLE_REQUESTS)
def test_a_request_refused_as_a_whole_is_one_refusal(post: Post, request_: str) -> None:
    body, headers, code = WHOLE_REQUESTS[request_]
    post(body, **headers)

    assert counted() == Counts(refused=1)
    assert (refusal().code, refusal().request_id, refusal().customer_id) == (code, "", None)


def test_another_method_under_a_live_key_is_a_refusal(client: Client, api_key: str) -> None:
    client.get("/api/v1/usage/", headers={"Authorization": f"Bearer {api_key}"})

    assert refusal().status == 405


def test_a_refusal_says_what_was_wrong_with_what(post: Post, customer: Customer) -> None:
    answer = post(usage_body(request_id="cdn:17", units_consumed=0, service=" CDN "))

    kept = refusal()
    assert (kept.status, kept.code, kept.detail) == (
        400,
        "validation_error",
        answer.json()["detail"],
    )
    assert (kept.request_id, kept.customer_id, kept.service) == ("cdn:17", 123, "CDN")
    assert kept.api_key == ApiKey.objects.get()


def test_the_other_spelling_is_read_too(post: Post) -> None:
    post({"requestId": "cdn:17", "customerId": 123})

    assert (refusal().request_id, refusal().customer_id) == ("cdn:17", 123)


def test_a_conflict_keeps_the_names_of_its_fields_and_no_stored_value(
    post: Post, customer: Customer
) -> None:
    post(usage_body(request_id="cdn:17", units_consumed=777777))
    post(usage_body(request_id="cdn:17", units_consumed=5))

    kept = refusal()
    assert (kept.status, kept.code) == (409, "request_id_conflict")
    assert "units_consumed" in kept.detail
    assert "777777" not in kept.detail


VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "whole": 5,
    "fraction": 1.5,
    "list": [],
    "object": {},
    "empty": "",
    "long": "x" * 100_000,
    "large": 2**63,
    "negative": -1,
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_whatever_stands_in_a_field_is_kept_harmlessly(post: Post, value: Any) -> None:
    post(dict.fromkeys(("request_id", "customer_id", "service"), value))

    kept = refusal()
    assert len(kept.request_id) <= 128
    assert len(kept.service) <= 100
    assert kept.customer_id == (5 if value == 5 else None)


def test_what_cannot_be_seen_is_replaced(post: Post) -> None:
    hostile = "<b>\u202e\u0000\x1b[31m\ud800"
    post(json.dumps({"request_id": hostile, "service": hostile, hostile: 1}).encode())

    kept = refusal()
    assert kept.request_id == kept.service == "<b>\ufffd\ufffd\ufffd[31m\ufffd"
    assert kept.detail.isprintable()


def test_without_a_live_key_nothing_is_counted(client: Client, api_key: str) -> None:
    ApiKey.objects.get().revoke()
    for key in (api_key, "wrong"):
        client.post("/api/v1/usage/", headers={"Authorization": f"Bearer {key}"})
    traffic.flush()

    assert not Traffic.objects.exists()


def test_what_a_key_did_before_it_was_revoked_is_counted(post: Post, customer: Customer) -> None:
    post(usage_body())
    ApiKey.objects.get().revoke()

    assert counted() == Counts(created=1)


def test_keys_that_do_not_exist_are_left_out(api_key: str) -> None:
    known = ApiKey.objects.get().pk
    for key in (known, known + 1):
        traffic.recorded(key, created=1, replayed=0)

    assert counted() == Counts(created=1)


def test_counting_sends_no_statement(post: Post, customer: Customer) -> None:
    post(usage_body())

    with queries() as statements:
        post(usage_body())
        post(b"{")

    assert not [sql for sql in statements if "usage_traffic" in sql or "usage_refusal" in sql]


def test_the_day_is_that_of_the_billing_time_zone(api_key: str) -> None:
    key = ApiKey.objects.get().pk
    for now in ("2026-11-22T23:59:59.999Z", "2026-11-23T00:00:00Z", "2026-11-22T12:00:00Z"):
        with time_machine.travel(dt.datetime.fromisoformat(now), tick=False):
            traffic.recorded(key, created=1, replayed=0)
    traffic.flush()

    assert {row.day.day: row.created for row in Traffic.objects.all()} == {22: 2, 23: 1}
