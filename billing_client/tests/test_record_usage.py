"""One record: each answer of the contract's table, as the caller sees it."""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from billing_client import (
    AuthenticationError,
    BillingClient,
    BillingError,
    ConfigurationError,
    ConflictError,
    CustomerNotFoundError,
    RateLimitedError,
    Receipt,
    ValidationError,
    __version__,
)
from billing_client.tests.faulty import KEY, FaultyServer, refuse, reply

FACT: dict[str, Any] = {
    "customer_id": 123,
    "service": "Database Hosting",
    "units_consumed": 58,
    "price_per_unit": "0.05",
    "request_id": "cdn:17",
}


def test_a_recorded_usage_gives_a_receipt(billing: BillingClient) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    receipt = billing.record_usage(**FACT, occurred_at=now)
    assert receipt == Receipt(
        "cdn:17",
        "created",
        amount=Decimal("2.9"),
        bill_id=1,
        late=False,
        month=f"{now:%Y-%m}",
        occurred_at=now,
    )


def test_the_same_usage_again_is_a_replay(billing: BillingClient, server: FaultyServer) -> None:
    billing.record_usage(**FACT)
    assert billing.record_usage(**FACT).status == "replayed"
    assert list(server.service.stored) == ["cdn:17"]


def test_what_goes_over_the_wire(billing: BillingClient, server: FaultyServer) -> None:
    billing.record_usage(**FACT, occurred_at=datetime(2026, 11, 22, 9, 30, 0, 123999, tzinfo=UTC))
    (request,) = server.seen
    assert request.path == "/api/v1/usage/"
    assert request.header("Authorization") == f"Bearer {KEY}"
    assert request.header("Content-Type") == "application/json"
    assert request.header("Accept-Encoding") == "identity"
    assert str(request.header("User-Agent")).startswith(f"billing-client/{__version__} ")
    assert json.loads(request.body) == {
        "request_id": "cdn:17",
        "customer_id": 123,
        "service": "Database Hosting",
        "units_consumed": "58",
        "price_per_unit": "0.05",
        "occurred_at": "2026-11-22T09:30:00.123Z",
    }


def test_each_call_without_an_id_is_a_fact_of_its_own(billing: BillingClient) -> None:
    fact = {**FACT, "request_id": None}
    assert billing.record_usage(**fact).request_id != billing.record_usage(**fact).request_id


def test_a_usage_that_is_wrong_is_never_sent(billing: BillingClient, server: FaultyServer) -> None:
    with pytest.raises(ValidationError) as caught:
        billing.record_usage(**{**FACT, "units_consumed": 0})
    assert (caught.value.attempts, caught.value.ambiguous, server.seen) == (0, False, [])


def test_other_content_under_the_id_is_a_conflict(billing: BillingClient) -> None:
    billing.record_usage(**FACT)
    with pytest.raises(ConflictError) as caught:
        billing.record_usage(**{**FACT, "units_consumed": 59})
    assert caught.value.conflicting_fields == ("units_consumed",)
    assert (caught.value.status_code, caught.value.code) == (409, "request_id_conflict")
    assert caught.value.ambiguous is False


def test_an_unknown_customer(billing: BillingClient) -> None:
    with pytest.raises(
        CustomerNotFoundError, match=r"no customer with this id\. Check it, or ask billing"
    ) as caught:
        billing.record_usage(**{**FACT, "customer_id": 404})
    assert caught.value.request_ids == ("cdn:17",)


@pytest.mark.parametrize(
    ("status", "code", "kind", "advice"),
    [
        (404, "unknown_customer", CustomerNotFoundError, "create the customer, then resend"),
        (409, "request_id_conflict", ConflictError, "do not send this fact again, nor"),
        (409, "occurred_at_conflict", ConflictError, "do not send this fact again, nor"),
    ],
)
def test_the_client_advises_only_where_the_service_does_not(
    billing: BillingClient,
    server: FaultyServer,
    status: int,
    code: str,
    kind: type[BillingError],
    advice: str,
) -> None:
    server.script += [
        refuse(status, code, more={"detail": "This is wrong: do that."}),
        reply(status, {"code": code}),
    ]
    with pytest.raises(kind, match=r"(?m)^This is wrong: do that\.$"):
        billing.record_usage(**FACT)
    with pytest.raises(kind, match=advice):
        billing.record_usage(**FACT)


def test_what_the_service_finds_invalid_names_every_field(
    billing: BillingClient, server: FaultyServer
) -> None:
    errors = [{"field": "occurred_at", "code": "too_old", "detail": "More than 366 days ago."}]
    server.script.append(refuse(400, "validation_error", more={"errors": errors}))
    with pytest.raises(ValidationError, match="occurred_at: More than 366 days ago") as caught:
        billing.record_usage(**FACT)
    (field,) = caught.value.fields
    assert (field.field, field.code) == ("occurred_at", "too_old")


def test_what_is_said_twice_is_told_once(billing: BillingClient, server: FaultyServer) -> None:
    old = {"field": "occurred_at", "code": "too_old", "detail": "More than 366 days ago."}
    late = {"field": "service", "code": "blank", "detail": "Empty."}
    detail = "occurred_at: More than 366 days ago; and more."
    more: dict[str, object] = {"errors": [old, late], "detail": detail}
    server.script.append(refuse(400, "validation_error", more=more))
    with pytest.raises(ValidationError) as caught:
        billing.record_usage(**FACT)
    assert str(caught.value).startswith(
        "occurred_at: More than 366 days ago; and more: service: Empty; correct it"
    )


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused(billing: BillingClient, server: FaultyServer, status: int) -> None:
    server.script.append(refuse(status, "not_authenticated", WWW_Authenticate="Bearer"))
    with pytest.raises(AuthenticationError) as caught:
        billing.record_usage(**FACT)
    assert (caught.value.attempts, caught.value.ambiguous) == (1, False)


@pytest.mark.parametrize(
    "status", [400, 402, 404, 405, 407, 409, 410, 411, 413, 414, 415, 421, 422, 426, 431, 451]
)
def test_an_answer_that_is_not_the_services_is_a_wrong_address(
    billing: BillingClient, server: FaultyServer, status: int
) -> None:
    server.script.append(reply(status, b"<html>nginx</html>", Content_Type="text/html"))
    with pytest.raises(
        ConfigurationError, match=rf"answered {status}; check that the URL"
    ) as caught:
        billing.record_usage(**FACT)
    assert (caught.value.attempts, caught.value.status_code) == (1, status)


def test_a_host_that_the_service_does_not_serve_is_a_wrong_address(
    billing: BillingClient, server: FaultyServer
) -> None:
    server.script.append(refuse(400, "bad_request", more={"detail": "Check the Host."}))
    with pytest.raises(
        ConfigurationError, match=r"\(Check the Host\); check that the URL"
    ) as caught:
        billing.record_usage(**FACT)
    assert caught.value.code == "bad_request"


@pytest.mark.parametrize("status", [501, 505])
def test_a_server_that_will_never_do_it_is_not_asked_again(
    billing: BillingClient, server: FaultyServer, status: int
) -> None:
    server.script.append(reply(status))
    with pytest.raises(ConfigurationError):
        billing.record_usage(**FACT)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_named_and_not_followed(
    billing: BillingClient, server: FaultyServer, status: int
) -> None:
    server.script.append(reply(status, Location="https://login.example.com/?next=x"))
    with pytest.raises(ConfigurationError, match=r"redirect to login\.example\.com;") as caught:
        billing.record_usage(**FACT)
    assert (caught.value.ambiguous, len(server.seen)) == (False, 1)


@pytest.mark.parametrize(
    ("location", "target"), [("/login", "the same host"), ("http://[x", "an unreadable address")]
)
def test_a_redirect_to_nowhere(
    billing: BillingClient, server: FaultyServer, location: str, target: str
) -> None:
    server.script.append(reply(302, Location=location))
    with pytest.raises(ConfigurationError, match=target):
        billing.record_usage(**FACT)


def test_too_many_requests(billing: BillingClient, server: FaultyServer) -> None:
    server.script.extend(reply(429) for _ in range(5))
    with pytest.raises(RateLimitedError) as caught:
        billing.record_usage(**FACT)
    assert (caught.value.attempts, caught.value.ambiguous) == (5, False)


@pytest.mark.parametrize("prefix", ["/", "/billing", "/billing/"])
def test_the_address_may_have_a_path(server: FaultyServer, prefix: str) -> None:
    with BillingClient(server.url + prefix, KEY) as billing:
        billing.record_usage(**FACT)
    assert server.seen[0].path == prefix.rstrip("/") + "/api/v1/usage/"


def test_address_and_key_come_from_the_environment(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_URL", server.url)
    monkeypatch.setenv("BILLING_API_KEY", KEY)
    with BillingClient() as billing:
        assert billing.record_usage(**FACT).status == "created"


def test_a_closed_client_says_so(billing: BillingClient) -> None:
    billing.record_usage(**FACT)
    billing.close()
    with pytest.raises(ConfigurationError, match="closed") as caught:
        billing.record_usage(**FACT)
    assert (caught.value.request_ids, caught.value.attempts) == (("cdn:17",), 0)


def test_every_error_is_a_billing_error(billing: BillingClient, server: FaultyServer) -> None:
    server.script.append(reply(418))
    with pytest.raises(BillingError):
        billing.record_usage(**FACT)


def test_a_traceback_shows_the_id_also_if_it_was_made_up(
    billing: BillingClient, server: FaultyServer
) -> None:
    server.script.append(refuse(401, "not_authenticated"))
    with pytest.raises(AuthenticationError) as caught:
        billing.record_usage(**{**FACT, "request_id": None})
    (made_up,) = caught.value.request_ids
    assert "".join(traceback.format_exception(caught.value)).endswith(
        f"The usage has the request_id {made_up}.\n"
    )
