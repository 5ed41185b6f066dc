"""Any facts that the contract accepts add up exactly on the bill, or are refused by name."""

import json
from collections import defaultdict
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Any

import pytest
from django.db import connection
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from usage.models import Bill, Customer
from usage.tests.conftest import Post
from usage.tests.factories import CustomerFactory
from usage.verification import Verification

pytestmark = pytest.mark.django_db
WIDE = Context(prec=100)
MOST_UNITS = 10**18 - 1
MOST_PRICE = 10**18 - 1
SQLITE_MOST = 2**63 - 1
DIGITS = {"JPY": 0, "USD": 2, "KWD": 3}

# In millionths of a unit, and in millionths of a millionth of the currency.
units = st.integers(1, MOST_UNITS) | st.sampled_from([1, 10**6, MOST_UNITS, MOST_UNITS - 1])
prices = st.integers(0, MOST_PRICE) | st.sampled_from([0, 1, 5 * 10**9, 5 * 10**11, MOST_PRICE])
services = st.sampled_from(["CDN Storage", "Zoë", "-"])
facts = st.lists(st.tuples(services, units, prices), min_size=1, max_size=12)


def is_accepted(fact: tuple[str, int, int]) -> bool:
    return Fraction(fact[1] * fact[2], 10**18) < 10**12


def written(number: int, places: int) -> str:
    """Return the number as a person writes it, without trailing zeros."""
    whole, fraction = divmod(number, 10**places)
    return f"{whole}.{fraction:0{places}}".rstrip("0").rstrip(".")


def rounded(amount: Fraction, digits: int) -> Decimal:
    """Round half away from zero by whole numbers alone."""
    doubled = 2 * amount * 10**digits
    return Decimal(int((doubled + 1) // 2)).scaleb(-digits, WIDE)


def body(customer: Customer, number: int, fact: tuple[str, int, int]) -> dict[str, Any]:
    service, unit_count, price = fact
    return {
        "request_id": f"money:{customer.pk}:{number}",
        "customer_id": customer.pk,
        "service": service,
        "units_consumed": written(unit_count, 6),
        "price_per_unit": written(price, 12),
    }


def add_up(accepted: list[tuple[str, int, int]]) -> dict[tuple[str, int], int]:
    sums: dict[tuple[str, int], int] = defaultdict(int)
    for service, unit_count, price in accepted:
        sums[service, price] += unit_count
    return sums


@pytest.mark.no_cover  # other tests measure this code
@pytest.mark.parametrize("currency", DIGITS)
def test_any_facts_add_up_exactly_or_are_refused_by_name(
    currency: str, post: Post, db: None
) -> None:
    @settings(max_examples=settings().max_examples * 3 // 5, deadline=None)
    @given(facts)
    @example([("-", MOST_UNITS, 0)] * 12)
    @example([("-", MOST_UNITS, 10**12 - 1)] * 12)
    @example([("-", 1, MOST_PRICE), ("-", 10**6, MOST_PRICE)])
    @example([("-", 10**6, 5 * 10**9)] * 3)
    def check(facts: list[tuple[str, int, int]]) -> None:
        facts = [fact for fact in facts if is_accepted(fact)]
        assume(facts)
        customer = CustomerFactory.create(currency=currency)
        accepted = recorded(post, customer, facts)
        assert_bill(Bill.objects.get(customer=customer), add_up(accepted), DIGITS[currency])

    check()


def recorded(
    post: Post, customer: Customer, facts: list[tuple[str, int, int]]
) -> list[tuple[str, int, int]]:
    """Post the facts as one batch; return those that were recorded, once the others are judged."""
    response = post([body(customer, number, fact) for number, fact in enumerate(facts)])
    assert response.status_code == 207
    held: dict[tuple[str, int], int] = defaultdict(int)
    accepted = []
    for fact, result in zip(facts, response.json()["results"], strict=True):
        service, unit_count, price = fact
        if connection.vendor == "sqlite" and held[service, price] + unit_count > SQLITE_MOST:
            event("no room")
            assert result["status"] == 400
            assert [error["code"] for error in result["error"]["errors"]] == ["no_room"]
            continue
        assert result["status"] == 201, result
        assert_answered(result["record"], fact)
        held[service, price] += unit_count
        accepted.append(fact)
    return accepted


def assert_answered(answer: dict[str, Any], fact: tuple[str, int, int]) -> None:
    _, unit_count, price = fact
    assert answer["units_consumed"] == written(unit_count, 6)
    assert answer["price_per_unit"] == written(price, 12)
    assert answer["amount"] == written(unit_count * price, 18)


def assert_bill(bill: Bill, sums: dict[tuple[str, int], int], digits: int) -> None:
    lines = {
        (line.service, int(line.price_per_unit.scaleb(12, WIDE))): line for line in bill.lines()
    }
    assert lines.keys() == sums.keys()
    total = Decimal(0)
    for key, unit_count in sums.items():
        exact = Fraction(unit_count * key[1], 10**18)
        assert int(lines[key].units.scaleb(6, WIDE)) == unit_count
        assert Fraction(lines[key].exact_amount) == exact
        assert lines[key].amount == rounded(exact, digits)
        total = WIDE.add(total, rounded(exact, digits))
    assert bill.total == total
    assert list(Verification(Bill.objects.filter(pk=bill.pk)).differences()) == []


def test_the_largest_batch_of_the_largest_facts_is_exact_or_refused_by_name(
    customer: Customer, post: Post
) -> None:
    fact = {
        "customer_id": 123,
        "service": "x",
        "units_consumed": "999999999999.999999",
        "price_per_unit": "0.999999999999",
    }
    results = post([fact | {"request_id": f"big:{n}"} for n in range(1000)]).json()["results"]

    stored = 9 if connection.vendor == "sqlite" else 1000
    assert [result["status"] for result in results] == [201] * stored + [400] * (1000 - stored)
    (line,) = Bill.objects.get().lines()
    exact = WIDE.multiply(Decimal("999999999999.999999") * stored, Decimal("0.999999999999"))
    assert line.exact_amount == exact
    assert line.amount == exact.quantize(Decimal("0.01"), ROUND_HALF_UP, context=WIDE)


def units_of(request_id: str, units: str) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "customer_id": 123,
        "service": "x",
        "units_consumed": units,
        "price_per_unit": "0.000000000001",
    }


def statuses(response: Any) -> list[int]:
    return [result["status"] for result in response.json()["results"]]


def test_daily_usage_is_filled_to_the_last_millionth(customer: Customer, post: Post) -> None:
    parts = [units_of(f"part:{n}", "999999999999.999999") for n in range(9)]
    rest = written(SQLITE_MOST - 9 * MOST_UNITS, 6)

    response = post([*parts, units_of("rest", rest), units_of("more", "0.000001")])

    refused = 400 if connection.vendor == "sqlite" else 201
    assert statuses(response) == [*[201] * 10, refused]


def test_a_replay_is_answered_also_where_there_is_no_room_for_more(
    customer: Customer, post: Post
) -> None:
    full = [units_of(f"part:{n}", "999999999999.999999") for n in range(9)]
    post(full)

    response = post([full[0], units_of("more", "999999999999.999999"), full[1]])

    refused = 400 if connection.vendor == "sqlite" else 201
    assert statuses(response) == [200, refused, 200]


@pytest.mark.parametrize("number", ["999999999999.999999", "0.000001", "1.000000", "1e3", "1.5E-3"])
def test_a_json_number_is_as_exact_as_text(number: str, customer: Customer, post: Post) -> None:
    text = json.dumps(
        {"request_id": "n", "customer_id": 123, "service": "x", "price_per_unit": "0.1"}
    )
    response = post(f'{text[:-1]}, "units_consumed": {number}}}'.encode())

    assert response.status_code == 201
    assert Decimal(response.json()["units_consumed"]) == Decimal(number)
