"""How amounts, numbers, times and names read on a page, and how an amount is typed in."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation, localcontext
from typing import cast

from babel.numbers import format_currency
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from usage.currencies import digits_of
from usage.database.names import normal
from usage.models import ApiKey, Customer
from usage.money import EXACT

# CLDR puts a space between a currency's code and the number; Babel does not.
_CODE = re.compile(r"[A-Z]{3}(?=\d)")
# Larger amounts do not exist; the database could not compare them.
_AMOUNT_LIMIT = 10**25
_PLACES_LIMIT = 60


def exact_money(amount: Decimal, currency: str) -> str:
    """Return an amount with its currency and every digit it has."""
    return money(amount, currency, exact=True)


def money(amount: Decimal, currency: str, *, exact: bool = False) -> str:
    """Return an amount that is rounded to a currency's digits, with the currency."""
    if not amount.is_finite():  # in a row that no check admits
        return "NaN"
    # The digits are given, since Babel would take CLDR's, which are not ISO 4217's.
    digits = digits_of(currency) if exact else -cast("int", amount.as_tuple().exponent)
    pattern = f"¤#,##0.{'0' * digits}".rstrip(".")
    with localcontext(EXACT):  # Babel computes in the current context and fails beyond its digits
        unsigned = amount + 0  # Decimal("-0") would show as −$0.00
        text = format_currency(
            unsigned,
            currency,
            format=pattern,
            locale="en",
            currency_digits=False,
            decimal_quantization=not exact,
        )
    return _CODE.sub("\\g<0>\N{NO-BREAK SPACE}", text).replace("-", "−")


def amount_of(text: str) -> Decimal:
    """Return an amount that was typed in; raises ValueError if it is not one."""
    try:
        amount = Decimal(normal(text).replace("−", "-"))
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not an amount.") from error
    is_usual = amount.is_finite() and abs(cast("int", amount.as_tuple().exponent)) < _PLACES_LIMIT
    if not (is_usual and abs(amount) < _AMOUNT_LIMIT and len(text) < 60):
        raise ValueError(f"{text!r} is not an amount that occurs.")
    return amount


def number(value: Decimal | int) -> str:
    """Return a number with thousands separated and no trailing zeros."""
    text = f"{Decimal(value):,f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−")


def per_cent(amount: Decimal, whole: Decimal) -> float:
    """Return an amount's part of a whole in per cent, for a bar; 0 if it is not charged."""
    return round(float(amount / whole * 100), 1) if amount > 0 else 0.0


def change(amount: Decimal, before: Decimal) -> str:
    """Return how an amount differs from one before, in per cent with its sign; "" from zero."""
    if not before:
        return ""
    if before > 0 and amount > 10 * before:
        return "over 10 times"
    share = EXACT.divide(EXACT.multiply(EXACT.subtract(amount, before), Decimal(100)), abs(before))
    return f"{share:+,.1f}\N{NO-BREAK SPACE}%".replace("-", "−")


def counted_sums(count: int, one: str, many: str, sums: Mapping[str, Decimal]) -> str:
    """Return how many rows there are, and their sum in each currency."""
    amounts = ", ".join(exact_money(amount, currency) for currency, amount in sorted(sums.items()))
    return f"{number(count)} {one if count == 1 else many}" + (f": {amounts}" if amounts else ".")


def moment(instant: dt.datetime, *, timespec: str = "seconds") -> SafeString:
    """Return an instant in the billing time zone, to the second or as `timespec` says.

    Its title has the milliseconds and the offset.
    """
    local = timezone.localtime(instant)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        local.isoformat(timespec="milliseconds"),
        local.isoformat(sep=" ", timespec="milliseconds"),
        local.replace(tzinfo=None).isoformat(sep=" ", timespec=timespec),
    )


def name(text: str) -> SafeString:
    """Return a name, isolated so that right-to-left text does not reorder its surroundings."""
    return format_html('<bdi class="name" title="{}">{}</bdi>', text, text)


def customer(row: Customer) -> SafeString:
    """Return a customer's name and id; the id is outside the isolated name."""
    return format_html("{} ({})", name(row.name), row.pk)


def api_key(row: ApiKey) -> SafeString:
    """Return a key's name and public prefix."""
    return format_html("{} ({})", name(row.name), row.prefix)


def badge(text: str, kind: str) -> SafeString:
    """Return a badge; `kind` only gives it a colour."""
    return format_html('<span class="badge badge-{}">{}</span>', kind, text)
