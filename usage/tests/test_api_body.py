"""Bodies: any bytes get an answer below 500, and numbers are exact, however they are spelled."""

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from usage.models import Bill, Customer
from usage.tests.conftest import Post
from usage.tests.factories import CustomerFactory, usage_body

# Other tests measure this code.
pytestmark = [pytest.mark.django_db, pytest.mark.no_cover]

# One database serves all examples of a property; ids make each a fact of its own.
one_database = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=2 * settings().max_examples,
)


def plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def decimals(before: int, after: int, *, least: Decimal) -> st.SearchStrategy[Decimal]:
    """Any decimal of so many digits, its extremes often."""
    most = Decimal(10) ** before - Decimal(10) ** -after
    return st.one_of(
        st.sampled_from([least, most, Decimal(1), Decimal("0.1") + least]),
        st.decimals(min_value=least, max_value=most, places=after),
        st.integers(min_value=1, max_value=10**before - 1).map(Decimal),
    )


units = decimals(12, 6, least=Decimal("0.000001"))
prices = st.one_of(st.just(Decimal(0)), decimals(6, 12, least=Decimal("0.000000000001")))
spellings = st.sampled_from(
    [plain, lambda number: f"000{number:f}000" if "." in f"{number:f}" else plain(number)]
)


@given(st.binary(max_size=300))
@one_database
def test_any_bytes_get_an_answer_below_500(post: Post, body: bytes) -> None:
    assert post(body or b" ").status_code < 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
fields = st.sampled_from([*usage_body(), "occurred_at", "requestId", "unitsConsumed"])
records = st.dictionaries(fields, json_values, max_size=7)


@given(st.one_of(json_values, records, st.lists(records, max_size=5)))
@example({**usage_body(), "service": "\ud800"})
@example({"\ud800": 1, "x" * 500: 2})
@example({**usage_body(), "units_consumed": float("inf")})
@one_database
def test_any_json_gets_an_answer_below_500(post: Post, body: Any) -> None:
    assert post(json.dumps(body).encode() or b" ").status_code < 500


@pytest.mark.parametrize(
    "number",
    [
        *("1e400", "1e-400", "1e999999999999", "-1e999999999999", "0e999999999", "1" * 5000),
        *("1e9999999999999999999", "1e-9999999999999999999"),
    ],
)
@pytest.mark.parametrize("field", ["units_consumed", "price_per_unit", "customer_id"])
def test_a_number_of_any_size_is_refused_in_no_time(
    customer: Customer, post: Post, field: str, number: str
) -> None:
    body = json.dumps(usage_body(**{field: "here"})).replace('"here"', number).encode()

    assert post(body).status_code in (201, 400)


@pytest.mark.parametrize(
    ("spelling", "price"),
    [("0e9", "0"), ("0E-30", "0"), ("-0.0", "0"), ("5e-2", "0.05"), ("2E+3", "2000")],
)
def test_a_number_is_its_value_however_json_spells_it(
    customer: Customer, post: Post, spelling: str, price: str
) -> None:
    body = json.dumps(usage_body(price_per_unit="here")).replace('"here"', spelling).encode()

    assert post(body).json()["price_per_unit"] == price


@given(units=units, price=prices, spell=spellings, quoted=st.booleans())
@one_database
def test_a_number_comes_back_digit_for_digit(
    customer: Customer, post: Post, units: Decimal, price: Decimal, spell: Any, quoted: bool
) -> None:
    body = {**usage_body(), "units_consumed": "units here", "price_per_unit": "price here"}
    text = json.dumps(body)
    for place, number in (("units here", units), ("price here", price)):
        said = json.dumps(spell(number)) if quoted else plain(number)
        text = text.replace(json.dumps(place), said)

    first, second = post(text.encode()), post(text.encode())

    if Fraction(units) * Fraction(price) >= 10**12:
        assert first.json()["errors"][0]["code"] == "amount_limit"
        return
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.content == first.content
    record = first.json()
    assert record["units_consumed"] == plain(units)
    assert record["price_per_unit"] == plain(price)
    assert Fraction(record["amount"]) == Fraction(units) * Fraction(price)


@pytest.mark.parametrize("spelling", [58, 58.0, "58", "58.0", "0058.000000"], ids=repr)
def test_spellings_of_one_number_are_one_content(
    customer: Customer, post: Post, spelling: Any
) -> None:
    body = usage_body(units_consumed=58)
    post(body)

    assert post({**body, "units_consumed": spelling}).status_code == 200


@pytest.mark.parametrize("number", [123, 2**53 + 1, 2**63 - 1])
@pytest.mark.parametrize("name", ["customer_id", "customerId"])
def test_the_digits_of_a_customer_id_are_the_same_content_as_the_number(
    post: Post, number: int, name: str
) -> None:
    CustomerFactory.create(id=number)
    body = usage_body()
    del body["customer_id"]

    first = post({**body, name: str(number)})
    second = post({**body, name: number})

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.content == second.content
    assert first.json()["customer_id"] == number


@pytest.mark.parametrize(
    "spelling",
    [
        "  Café ",
        "Cafe\u0301",
        "Caf\u00e9\u00a0",
        "\u2003Café",
        " " * 1000 + "Café" + "\u3000" * 1000,
    ],
    ids=lambda spelling: ascii(spelling[-12:]),
)
def test_a_service_is_trimmed_and_normalised(customer: Customer, post: Post, spelling: str) -> None:
    body = usage_body(service="Café")
    first = post(body)

    again = post(json.dumps({**body, "service": spelling}))

    assert again.status_code == 200
    assert again.json()["service"] == first.json()["service"] == "Café"


@pytest.mark.parametrize(
    ("spelling", "kept"),
    [("e\u0301", "\u00e9"), ("\u03b1\u0313\u0300\u0345", "\u1f82")],
    ids=ascii,
)
def test_the_length_of_a_service_is_that_of_its_normal_form(
    customer: Customer, post: Post, spelling: str, kept: str
) -> None:
    response = post(json.dumps(usage_body(service=spelling * 100)))

    assert response.json()["service"] == kept * 100


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("2026-11-22T10:00:00Z", "2026-11-22T10:00:00.000Z"),
        ("2026-11-22t10:00:00.1234567z", "2026-11-22T10:00:00.123Z"),
        ("2026-11-22T10:00:00.9999-09:30", "2026-11-22T19:30:00.999Z"),
        ("2026-11-22T10:00:00-00:00", "2026-11-22T10:00:00.000Z"),
    ],
)
def test_an_instant_is_kept_to_the_millisecond_in_utc(
    customer: Customer, post: Post, database_clock: Any, sent: str, kept: str
) -> None:
    database_clock.set("2026-11-22T20:00:00Z")

    assert post(usage_body(occurred_at=sent)).json()["occurred_at"] == kept


@pytest.mark.parametrize("instant", ["2026-11-22T10:05:00.000999Z", "2025-11-21T10:00:00Z"])
def test_usage_may_be_5_minutes_ahead_and_366_days_back(
    customer: Customer, post: Post, database_clock: Any, instant: str
) -> None:
    database_clock.set("2026-11-22T10:00:00Z")

    assert post(usage_body(occurred_at=instant)).status_code == 201


def test_the_companys_sample_data_is_taken_as_it_is(post: Post) -> None:
    Customer.objects.create(pk=123, name="Alice")
    Customer.objects.create(pk=456, name="Bob")
    sample = [
        (123, "Database Hosting", 58, 0.05),
        (456, "Load Balancer", 27, 0.03),
        (123, "Linux Instance", 42, 0.15),
        (123, "CDN Storage", 15, 0.02),
        (456, "Domain Name Registration", 1, 14.99),
    ]
    bodies = [
        {
            "requestId": f"sample-{number}",
            "customerId": customer,
            "service": service,
            "unitsConsumed": units,
            "pricePerUnit": price,
        }
        for number, (customer, service, units, price) in enumerate(sample)
    ]

    assert [post(body).status_code for body in bodies] == [201] * 5
    assert [post(body).status_code for body in bodies] == [200] * 5
    assert [bill.total for bill in Bill.objects.order_by("customer")] == [
        Decimal("9.50"),
        Decimal("15.80"),
    ]
