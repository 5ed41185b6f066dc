"""How amounts, numbers, times and names read on a page."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal, localcontext

from babel.numbers import format_currency
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from usage.models import ApiKey, Customer
from usage.money import EXACT

# A code instead of a sign, which CLDR sets apart from the number, and Babel does not.
_CODE = re.compile(r"[A-Z]{3}(?=\d)")


def money(amount: Decimal, currency: str) -> str:
    """Return an amount with its currency, at the currency's minor unit."""
    return _money(amount, currency, rounded=True)


def exact_money(amount: Decimal, currency: str) -> str:
    """Return an amount with its currency and every digit it has."""
    return _money(amount, currency, rounded=False)


def _money(amount: Decimal, currency: str, *, rounded: bool) -> str:
    with localcontext(EXACT):  # Babel computes in the current context, and fails beyond its digits
        zero_unsigned = amount + 0
        text = format_currency(zero_unsigned, currency, locale="en", decimal_quantization=rounded)
    return _CODE.sub("\\g<0>\N{NO-BREAK SPACE}", text).replace("-", "−")


def number(value: Decimal | int) -> str:
    """Return a number with thousands separated and no trailing zeros."""
    text = f"{value:,f}" if isinstance(value, Decimal) else f"{value:,}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−")


def plain(value: Decimal) -> str:
    """Return a decimal as it stands in an address or a file: exact, without trailing zeros."""
    return f"{EXACT.normalize(value):f}"


def moment(instant: dt.datetime) -> SafeString:
    """Return an instant to the second, in the billing time zone."""
    local = timezone.localtime(instant)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        local.isoformat(timespec="milliseconds"),
        local.isoformat(sep=" ", timespec="milliseconds"),
        f"{local:%Y-%m-%d %H:%M:%S}",
    )


def minute(instant: dt.datetime) -> SafeString:
    """Return an instant to the minute, for narrow columns; its title says all of it."""
    local = timezone.localtime(instant)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        local.isoformat(timespec="milliseconds"),
        local.isoformat(sep=" ", timespec="milliseconds"),
        f"{local:%Y-%m-%d %H:%M}",
    )


def name(text: str) -> SafeString:
    """Return a name that cannot turn the direction of what stands around it."""
    return format_html('<bdi class="name" title="{}">{}</bdi>', text, text)


def customer(row: Customer) -> SafeString:
    """Return a customer's name and id; the id stands outside of what the name may turn around."""
    return format_html("{} ({})", name(row.name), row.pk)


def api_key(row: ApiKey) -> SafeString:
    """Return a key's name and public prefix."""
    return format_html("{} ({})", name(row.name), row.prefix)


def badge(text: str, kind: str) -> SafeString:
    """Return a mark that says its meaning in words; `kind` only gives it a colour."""
    return format_html('<span class="badge badge-{}">{}</span>', kind, text)
