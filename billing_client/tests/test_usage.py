"""What a usage record may be: exactly the contract, checked when it is made."""

from __future__ import annotations

import dataclasses
import http
import json
import pickle
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest

from billing_client import Usage, ValidationError

FACT: dict[str, Any] = {
    "customer_id": 123,
    "service": "Database Hosting",
    "units_consumed": 58,
    "price_per_unit": "0.05",
}


def made(**changes: Any) -> Usage:
    return Usage(**{**FACT, **changes})


def refused(**changes: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        made(**changes)
    return caught.value


def test_the_id_is_a_random_uuid_made_once() -> None:
    usage = made()
    assert usage.to_json() == usage.to_json()
    assert usage.request_id != made().request_id


def test_random_ids_are_uuids_of_version_4() -> None:
    ids = {made().request_id for _ in range(200)}
    assert len(ids) == 200
    assert {(uuid.UUID(made_id).version, uuid.UUID(made_id).variant) for made_id in ids} == {
        (4, uuid.RFC_4122)
    }
    assert {str(uuid.UUID(made_id)) for made_id in ids} == ids
    assert {made_id[19] for made_id in ids} == set("89ab")


def test_it_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().customer_id = 1  # type: ignore[misc]  # the test is that it fails


def test_a_changed_copy_is_checked_too_and_keeps_its_id() -> None:
    usage = made()
    assert dataclasses.replace(usage, units_consumed=Decimal(59)).request_id == usage.request_id
    with pytest.raises(ValidationError):
        dataclasses.replace(usage, units_consumed=Decimal(0))


def test_it_survives_a_pickle() -> None:
    usage = made(occurred_at=datetime(2026, 11, 22, tzinfo=UTC))
    assert pickle.loads(pickle.dumps(usage)) == usage


@pytest.mark.parametrize("customer_id", [1, 2**63 - 1])
def test_customer_ids_at_their_bounds(customer_id: int) -> None:
    assert made(customer_id=customer_id).to_wire()["customer_id"] == customer_id


@pytest.mark.parametrize("customer_id", [0, -1, 2**63, True, "123", 5.0, None])
def test_other_customer_ids_are_refused(customer_id: object) -> None:
    assert [fault.field for fault in refused(customer_id=customer_id).fields] == ["customer_id"]


@pytest.mark.parametrize(
    ("service", "kept"),
    [
        ("  CDN \n", "CDN"),
        ("Cafe\u0301", "Café"),
        ("x" * 100, "x" * 100),
        ("e\u0301" * 100, "é" * 100),
        ("\u03b1\u0313\u0300\u0345" * 100, "\u1f82" * 100),
        ("云存储 ☁", "云存储 ☁"),
        ("\U0001f4be" * 100, "\U0001f4be" * 100),
        ('C:\\"CDN"/', 'C:\\"CDN"/'),
    ],
)
def test_services_are_kept_trimmed_and_composed(service: str, kept: str) -> None:
    usage = made(service=service)
    assert usage.service == kept
    assert json.loads(usage.to_json())["service"] == kept


@pytest.mark.parametrize(
    "service",
    [
        "",
        "  ",
        "x" * 101,
        "a\x00b",
        "a\nb",
        "a\u200bb",
        "a\ud800b",
        "a\u2028b",
        "a\u2029b",
        b"x",
        7,
        None,
    ],
)
def test_other_services_are_refused(service: object) -> None:
    assert [fault.field for fault in refused(service=service).fields] == ["service"]


def test_a_text_far_too_long_is_refused_before_its_marks_are_sorted() -> None:
    """Which takes quadratic time: minutes for these."""
    assert refused(service="a" + "\u0316\u0301" * 500_000).fields[0].field == "service"


@pytest.mark.parametrize("request_id", ["x", "!~" * 64, "cdn:2026-11-22:17", '\\"\\'])
def test_ids_at_their_bounds(request_id: str) -> None:
    assert made(request_id=request_id).to_wire()["request_id"] == request_id


def test_texts_and_numbers_of_other_kinds_are_kept_as_plain_ones() -> None:
    """A member of an enumeration, say, would print, pickle and compare in a way of its own."""

    class Name(str, Enum):  # noqa: UP042 - StrEnum would behave
        ID = "cdn:17"

    usage = made(request_id=Name.ID, service=Name.ID, customer_id=http.HTTPStatus.OK)
    kept = (usage.request_id, usage.service, usage.customer_id)
    assert kept == ("cdn:17", "cdn:17", 200)
    assert [type(value) for value in kept] == [str, str, int]


class Index:
    """As numpy's integers are: no int, but PEP 357 says how to make one of it."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_whole_numbers_of_other_kinds_become_int() -> None:
    usage = made(customer_id=Index(7), units_consumed=Index(58), price_per_unit=Index(0))
    wire = usage.to_wire()
    assert (wire["customer_id"], wire["units_consumed"], wire["price_per_unit"]) == (7, "58", "0")
    assert (type(usage.customer_id), type(usage.units_consumed)) == (int, Decimal)


@pytest.mark.parametrize(
    "request_id", ["", "x" * 129, "a b", "a\n", "é", "a\x7f", 17, uuid.uuid4(), b"x"]
)
def test_other_ids_are_refused(request_id: object) -> None:
    assert [fault.field for fault in refused(request_id=request_id).fields] == ["request_id"]


@pytest.mark.parametrize(
    ("occurred_at", "wire"),
    [
        (datetime(2026, 11, 22, 9, 0, 0, 123999, tzinfo=UTC), "2026-11-22T09:00:00.123Z"),
        (
            datetime(2026, 11, 22, 9, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            "2026-11-22T03:30:00.000Z",
        ),
        (
            datetime(2026, 11, 22, 9, tzinfo=timezone(timedelta(hours=-12))),
            "2026-11-22T21:00:00.000Z",
        ),
    ],
)
def test_instants_are_sent_in_utc_and_cut_to_the_millisecond(
    occurred_at: datetime, wire: str
) -> None:
    assert made(occurred_at=occurred_at).to_wire()["occurred_at"] == wire


def test_an_instant_is_equal_whatever_its_zone() -> None:
    one = datetime(2026, 11, 22, 9, tzinfo=UTC)
    other = one.astimezone(timezone(timedelta(hours=3)))
    assert made(request_id="x", occurred_at=one) == made(request_id="x", occurred_at=other)


def test_an_instant_is_equal_whatever_is_below_the_millisecond() -> None:
    """Or a fact read back from elsewhere would differ from the one that was sent."""
    one = datetime(2026, 11, 22, 9, 0, 0, 123999, tzinfo=UTC)
    kept = made(occurred_at=one).occurred_at
    assert kept == datetime(2026, 11, 22, 9, 0, 0, 123000, tzinfo=UTC)


def test_no_instant_is_sent_where_none_was_given() -> None:
    assert "occurred_at" not in made().to_wire()


@pytest.mark.parametrize(
    ("occurred_at", "why"),
    [
        (datetime(2026, 11, 22, 9), "has no time zone"),  # noqa: DTZ001 - it is refused
        (date(2026, 11, 22), "is a date, expected a datetime with a time zone"),
        ("2026-11-22T09:00:00Z", "is a str, expected a datetime with a time zone"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "is outside the years"),
    ],
)
def test_other_instants_are_refused(occurred_at: object, why: str) -> None:
    (fault,) = refused(occurred_at=occurred_at).fields
    assert fault.detail.startswith(f"occurred_at {why}")


def test_an_instant_long_ago_is_for_the_service_to_judge() -> None:
    made(occurred_at=datetime(1999, 1, 1, tzinfo=UTC))


def test_every_field_at_fault_is_named_at_once() -> None:
    error = refused(customer_id=0, service="", units_consumed=0, price_per_unit=-1, request_id="")
    names = [fault.field for fault in error.fields]
    assert names == ["customer_id", "service", "units_consumed", "price_per_unit", "request_id"]
    assert all(name in str(error) for name in names)
    assert error.request_ids == ()


def test_a_refusal_names_the_id_it_is_about() -> None:
    assert refused(request_id="cdn:17", customer_id=0).request_ids == ("cdn:17",)


@pytest.mark.parametrize("units", [10**11, "100000000000.000001"])
def test_an_amount_of_the_limit_or_more_is_refused(units: object) -> None:
    assert refused(units_consumed=units, price_per_unit=10).fields[0].code == "amount_too_large"


def test_the_amount_stays_below_a_million_millions() -> None:
    made(units_consumed=10**6, price_per_unit="999999.999999999999")
    (fault,) = refused(units_consumed="1000000.000001", price_per_unit="999999.999999999999").fields
    assert (fault.field, fault.code) == ("units_consumed", "amount_too_large")


def test_the_amount_is_judged_beside_other_faults() -> None:
    fields = refused(service="", units_consumed=10**11, price_per_unit=10).fields
    assert [fault.field for fault in fields] == ["service", "units_consumed"]
    fields = refused(service="", units_consumed=10**12, price_per_unit=10).fields
    assert [fault.code for fault in fields] == ["invalid", "invalid"]


def test_the_amount_is_not_rounded_before_it_is_judged() -> None:
    """The product has thirty nines; at Decimal's default of 28 digits it rounds up to the limit."""
    made(units_consumed="1000000000.000001", price_per_unit="999.999999999999")
