"""A bill's amounts have the digits of ISO 4217 when it opened, whatever a library says later."""

from decimal import Decimal

import pytest
from babel.core import get_global

from usage.admin import formats
from usage.currencies import ISO_DIGITS, cldr_digits, digits_of
from usage.ledger.close import close
from usage.models import Bill, UsageRecord
from usage.tests.factories import CustomerFactory
from usage.tests.staff import report
from usage.verification import Verification

# Whose digits CLDR, as Babel 2.18.0 has it, sets lower than ISO 4217.
TO_ZERO = ("AFN", "ALL", "IRR", "KPW", "LAK", "LBP", "MGA", "MMK", "RSD", "SOS", "SYP", "YER")
DIFFERENT = {**dict.fromkeys(TO_ZERO, (2, 0)), "IQD": (3, 0)}


@pytest.mark.parametrize(
    ("code", "digits"), [("USD", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4), ("HUF", 2), ("IDR", 2)]
)
def test_digits_are_those_of_iso(code: str, digits: int) -> None:
    assert digits_of(code) == digits


def test_thirteen_currencies_differ_in_cldr() -> None:
    found = {code: (iso, cldr_digits(code)) for code, iso in ISO_DIGITS.items()}
    assert {code: pair for code, pair in found.items() if pair[0] != pair[1]} == DIFFERENT


@pytest.mark.parametrize("code", ["XAU", "XXX", "ITL", "XYZ"])
def test_a_currency_without_a_minor_unit_keeps_the_digits_it_had(code: str) -> None:
    assert code not in ISO_DIGITS
    assert digits_of(code) == cldr_digits(code)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("currency", "total"), [("RSD", "0.46"), ("IQD", "0.457"), ("ALL", "0.46")]
)
def test_a_bill_is_rounded_to_isos_digits(currency: str, total: str) -> None:
    CustomerFactory.create(id=123, currency=currency)
    bill = report(units=Decimal("0.4567"), price_per_unit=Decimal(1))

    assert bill.minor_unit_digits == digits_of(currency)
    assert str(bill.total) == total
    assert close(bill, by="Sam")
    assert str(Bill.objects.get().total) == total
    assert list(Verification().differences()) == []


@pytest.mark.django_db
def test_a_closed_bill_does_not_change_with_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    CustomerFactory.create(id=123, currency="IDR")
    bill = report(units=Decimal("0.46"), price_per_unit=Decimal(1))
    close(bill, by="Sam")

    monkeypatch.setitem(ISO_DIGITS, "IDR", 0)
    monkeypatch.setitem(get_global("currency_fractions"), "IDR", (0, 0, 0, 0))

    closed = Bill.objects.get()
    assert formats.money(closed.total, "IDR") == "IDR\N{NO-BREAK SPACE}0.46"
    assert list(Verification().differences()) == []
    assert UsageRecord.objects.exists()


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        ("1234.50", "USD", "$1,234.50"),
        ("-0.46", "RSD", "−RSD\N{NO-BREAK SPACE}0.46"),
        ("11", "JPY", "¥11"),
        ("2.900", "KWD", "KWD\N{NO-BREAK SPACE}2.900"),
    ],
)
def test_an_amount_is_shown_with_the_digits_it_was_rounded_to(
    amount: str, currency: str, shown: str
) -> None:
    assert formats.money(Decimal(amount), currency) == shown
