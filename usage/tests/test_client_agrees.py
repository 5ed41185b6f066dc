"""The client and the service accept the same values, as the same fact, and refuse the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from billing_client import Usage, ValidationError
from usage.api.parsing import parse_json
from usage.api.problems import Problem
from usage.api.serializers import read_record
from usage.ledger.facts import Fact

SOUND: dict[str, Any] = {
    "request_id": "cdn:17",
    "customer_id": 123,
    "service": "CDN Storage",
    "units_consumed": 58,
    "price_per_unit": "0.05",
}


def plain(whole: int, places: int) -> st.SearchStrategy[str]:
    """Numbers as people write them, about as many within the bounds as outside."""
    return st.from_regex(
        rf"0{{0,3}}[0-9]{{1,{whole + 1}}}(\.[0-9]{{1,{places + 1}}}0{{0,3}})?", fullmatch=True
    )


def numbers(whole: int, places: int) -> st.SearchStrategy[Any]:
    exact = plain(whole, places)
    small = st.integers(-2, 10 ** (whole + places)).map(lambda n: Decimal(n).scaleb(-places))
    odd = st.sampled_from(["", "+1", "1e3", " 1", "1_0", ".5", "5.", "٣", True, None])
    return (
        exact
        | exact.map(Decimal)
        | small
        | st.integers(-1, 10**whole)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.floats(0, 10**whole)
        | st.decimals(allow_nan=False, allow_infinity=False)
        | odd
    )


# Spaces of every kind, letters that compose, and what cannot be seen.
LETTERS = st.sampled_from(
    "aé \t\n\x0b\x1c\x1f\x7f\x85\xa0\u2000\u3000\u200b\ufeff\u2028"
    'e\u0301\u1100\u1161\u212b\U000e0001\ue000\ud800\u0378"\\/'
)
SERVICES = (
    st.text(LETTERS | st.characters(), max_size=12)
    | st.text(LETTERS, max_size=12).map(lambda text: text.ljust(100, "x"))
    | st.integers(98, 102).map(lambda length: "e\u0301" * length)
    | st.sampled_from([None, 7, ["x"]])
)
IDS = (
    st.text(st.characters(max_codepoint=0x100), max_size=5)
    | st.integers(127, 129).map(lambda length: "~" * length)
    | st.sampled_from([7, False])
)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
INSTANTS = st.datetimes(timezones=ZONES | st.just(UTC))
CUSTOMERS = (
    st.integers(-1, 3) | st.integers(2**63 - 2, 2**63 + 1) | st.sampled_from([True, "x", 1.0, None])
)


def as_sent(value: Any) -> str:
    """The value in JSON as a caller without the client would write it."""
    if isinstance(value, Decimal):
        return str(value) if value else "0"
    return json.dumps(value.isoformat() if isinstance(value, datetime) else value)


def read(body: bytes) -> Fact:
    return read_record(parse_json(body))


def both(record: dict[str, Any]) -> tuple[set[str], set[str]]:
    """The names of the fields that the client refuses, and that the service refuses."""
    pairs = (f'"{name}": {as_sent(value)}' for name, value in record.items())
    body = f"{{{', '.join(pairs)}}}".encode()
    here: set[str] = set()
    there: set[str] = set()
    fact: Fact | None = None
    usage: Usage | None = None
    try:
        usage = Usage(**record)
    except ValidationError as error:
        here = {fault.field for fault in error.fields}
    try:
        fact = read(body)
    except Problem as problem:
        there = {fault.field for fault in problem.errors}
    if usage is not None:
        assert read(usage.to_json()) == fact
    event(f"refused: {sorted(here)}")
    return here, there


@settings(deadline=None)
@given(numbers(12, 6))
@example(Decimal("1E+3"))
@example(Decimal("-0"))
@example(1e22)
@example(0.1 + 0.2)
def test_units(units: Any) -> None:
    here, there = both({**SOUND, "units_consumed": units, "price_per_unit": 0})
    assert here == there


@settings(deadline=None)
@given(numbers(6, 12))
@example(Decimal("-0"))
@example(Decimal("0E+9"))
@example(1e-7)
@example(-0.0)
def test_prices(price: Any) -> None:
    here, there = both({**SOUND, "units_consumed": 1, "price_per_unit": price})
    assert here == there


@settings(deadline=None)
@given(plain(12, 6), plain(6, 12))
@example("1000000.000001", "999999.999999999999")
@example("1000000000.000001", "999.999999999999")
def test_amounts(units: str, price: str) -> None:
    here, there = both({**SOUND, "units_consumed": units, "price_per_unit": price})
    assert here == there


@settings(deadline=None)
@given(SERVICES)
@example("\x1fx\x1c")
@example("\u0301 x")
@example("a\u0301".rjust(400))
def test_services(service: Any) -> None:
    here, there = both({**SOUND, "service": service})
    assert here == there


@settings(deadline=None)
@given(IDS, CUSTOMERS)
def test_ids(request_id: Any, customer_id: Any) -> None:
    here, there = both({**SOUND, "request_id": request_id, "customer_id": customer_id})
    assert here == there


@settings(deadline=None)
@given(INSTANTS)
@example(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))))
@example(datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=-1))))
def test_instants(occurred_at: datetime) -> None:
    here, there = both({**SOUND, "occurred_at": occurred_at})
    assert here == there
