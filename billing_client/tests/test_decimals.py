"""Numbers go to the wire digit for digit, or are refused."""

from __future__ import annotations

import re
from decimal import Decimal
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_client import Usage, ValidationError
from billing_client.decimals import exact

WIRE = re.compile(r"(?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])?")


def units_sent(value: Any) -> str:
    usage = Usage(customer_id=1, service="x", units_consumed=value, price_per_unit=0)
    sent: str = usage.to_wire()["units_consumed"]
    return sent


def price_sent(value: Any) -> str:
    usage = Usage(customer_id=1, service="x", units_consumed="0.000001", price_per_unit=value)
    sent: str = usage.to_wire()["price_per_unit"]
    return sent


class Size(IntEnum):
    LARGE = 4


class Numpyish(float):
    def __repr__(self) -> str:
        return f"np.float64({float(self)})"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (58, "58"),
        (Size.LARGE, "4"),
        (10**12 - 1, "999999999999"),
        ("58", "58"),
        ("58.00", "58"),
        ("0058.10", "58.1"),
        ("0.000001", "0.000001"),
        ("999999999999.999999", "999999999999.999999"),
        ("1.5" + "0" * 500, "1.5"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1.000000000"), "1"),
        (Decimal("1E-6"), "0.000001"),
        (0.05, "0.05"),
        (5.0, "5"),
        (1e11, "100000000000"),
        (1e-06, "0.000001"),
        (Numpyish(0.5), "0.5"),
    ],
    ids=repr,
)
def test_exact_numbers(value: object, sent: str) -> None:
    assert units_sent(value) == sent


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 10**12),
        *(
            "",
            "0",
            "-1",
            "+1",
            "1e3",
            "1_000",
            " 1",
            "1 ",
            "1\n",
            ".5",
            "5.",
            "0x1",
            "NaN",
            "٣",
            "1,5",
        ),
        *("0.0000001", "1000000000000", "9" * 5000, "0." + "1" * 5000, "1." + "0" * 70 + "1"),
        *(
            Decimal(s)
            for s in (
                "NaN",
                "sNaN",
                "Infinity",
                "-1",
                "1E-7",
                "1E+12",
                "1E+999999999",
                "1E-999999999",
            )
        ),
        *(
            0.0,
            -1.5,
            1e12,
            1e-07,
            0.1 + 0.2,
            float("nan"),
            float("inf"),
            float("-inf"),
            5e-324,
            1.7e308,
        ),
        *(True, False, None, b"1", 1j, [1]),
    ],
    ids=repr,
)
def test_everything_else_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match=r"units_consumed (is|has) "):
        units_sent(value)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (0, "0"),
        ("0.00", "0"),
        (Decimal("-0"), "0"),
        (Decimal("0E+50"), "0"),
        (-0.0, "0"),
        ("999999.999999999999", "999999.999999999999"),
        (1e-12, "0.000000000001"),
    ],
    ids=repr,
)
def test_a_price_may_be_nothing_and_has_its_own_bounds(value: object, sent: str) -> None:
    assert price_sent(value) == sent


@pytest.mark.parametrize("value", ["1000000", "0.0000000000001", -1, 1e-13])
def test_other_prices_are_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="price_per_unit"):
        price_sent(value)


def test_a_number_too_long_to_print_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValidationError, match="more than 12 digits before the point"):
        units_sent(10**5000)


def test_a_float_that_does_not_fit_is_refused_with_the_digits_python_prints() -> None:
    with pytest.raises(ValidationError, match=r"Python prints 0\.30000000000000004"):
        units_sent(0.1 + 0.2)


def scaled(most: int, places: int) -> st.SearchStrategy[Decimal]:
    """Every value of that many places, the extremes more often than chance has them."""
    return st.integers(0, most).map(lambda n: Decimal(n).scaleb(-places))


@given(scaled(10**18 - 1, 6).filter(bool))
def test_any_units_of_the_contract_arrive_digit_for_digit(units: Decimal) -> None:
    sent = units_sent(units)
    assert WIRE.fullmatch(sent)
    assert Decimal(sent) == units
    assert units_sent(format(units, "f")) == sent


@given(scaled(10**18 - 1, 12))
def test_any_price_of_the_contract_arrives_digit_for_digit(price: Decimal) -> None:
    sent = price_sent(price)
    assert WIRE.fullmatch(sent)
    assert Decimal(sent) == price


@given(
    st.decimals()
    | st.floats()
    | st.integers()
    | st.from_regex(r"[0-9]{1,30}\.[0-9]{1,30}", fullmatch=True)
)
def test_any_number_arrives_as_it_is_or_not_at_all(value: Decimal | float | str) -> None:
    meant = Decimal(str(value))
    fits = meant.is_finite() and 0 <= meant < 10**12 and (meant * 10**6) % 1 == 0
    try:
        kept = exact(value, whole=12, places=6)
    except ValueError:
        assert not fits
    else:
        assert fits
        assert kept == meant


@given(st.text())
def test_any_text_is_plain_digits_or_refused(text: str) -> None:
    plain = re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text)
    try:
        exact(text, whole=12, places=6)
    except ValueError:
        assert not plain
    else:
        assert re.fullmatch(r"[0-9]+(\.[0-9]+)?", text)
