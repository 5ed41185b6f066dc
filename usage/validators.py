"""The bounds of what may be reported: each rule once, for models, the API and commands."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from django.core.exceptions import ValidationError

from usage.money import EXACT, exact_amount

REQUEST_ID_LENGTH = 128
SERVICE_LENGTH = 100
REASON_LENGTH = 500
ACTOR_LENGTH = 150
UNITS_DIGITS = {"max_digits": 18, "decimal_places": 6}
PRICE_DIGITS = {"max_digits": 18, "decimal_places": 12}

REQUEST_ID_RULE = (
    f"A request_id has 1 to {REQUEST_ID_LENGTH} printable ASCII characters and no spaces."
)
is_request_id = re.compile(rf"[!-~]{{1,{REQUEST_ID_LENGTH}}}").fullmatch

# Normalising takes quadratic time in the worst case, so its input is bounded: NFC makes one
# character of at most four.
_LONGEST_SPELLING = 4 * SERVICE_LENGTH
# Control, format, surrogate, line and paragraph separator: what cannot be seen or stored.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def normal_service(value: str) -> str:
    """Return `value` trimmed and in Unicode's NFC; ValidationError if it cannot be a service."""
    service = value.strip()
    if len(service) <= _LONGEST_SPELLING:
        service = unicodedata.normalize("NFC", service)
    if not 1 <= len(service) <= SERVICE_LENGTH:
        raise ValidationError(
            f"A service has 1 to {SERVICE_LENGTH} characters after trimming.", code="length"
        )
    if _has_unseen(service):
        raise ValidationError(
            "A service has no control, format, surrogate or separator characters.",
            code="characters",
        )
    return service


def validate_name(value: str) -> None:
    """Raise ValidationError if a customer's or a key's name could pass for something else."""
    if value != value.strip() or _has_unseen(value):
        raise ValidationError(
            "A name has no spaces around it and no control, format, surrogate or separator"
            " characters.",
            code="characters",
        )


def shown(text: str, *, length: int) -> str:
    """Return any text as it can be kept and shown: trimmed, cut, its unseen characters replaced."""
    cut = text if len(text) <= length else f"{text[: length - 1]}…"
    if _has_unseen(cut):
        cut = "".join("\N{REPLACEMENT CHARACTER}" if _has_unseen(c) else c for c in cut)
    return cut.strip()


def _has_unseen(text: str) -> bool:
    return not text.isprintable() and any(unicodedata.category(c) in _UNSEEN for c in text)


def fit(value: Decimal, *, max_digits: int, decimal_places: int) -> Decimal:
    """Return `value` with exactly `decimal_places`; ValidationError if a digit would be lost."""
    before = max_digits - decimal_places
    if value.is_finite() and (not value or value.adjusted() < before):  # 0e9 is 0
        fitted = value.quantize(Decimal(1).scaleb(-decimal_places), context=EXACT)
        if fitted == value:
            return fitted
    raise ValidationError(
        f"Send at most {before} digits before the point and {decimal_places} after it: round once,"
        " before the first try.",
        code="digits",
    )


def fit_units(value: Decimal) -> Decimal:
    """Return reported units, which are positive, with 6 decimal places."""
    if not value > 0:
        raise ValidationError(
            "Units consumed must be more than 0. To take usage back, ask billing to void it.",
            code="min_value",
        )
    return fit(value, **UNITS_DIGITS)


def fit_price(value: Decimal) -> Decimal:
    """Return a unit price, which is 0 or more, with 12 decimal places."""
    if not value >= 0:
        raise ValidationError("A price per unit must be 0 or more.", code="min_value")
    return abs(fit(value, **PRICE_DIGITS))


def validate_amount(units: Decimal, price_per_unit: Decimal) -> None:
    """Raise ValidationError unless units × price is below 10¹²."""
    if exact_amount(units, price_per_unit) >= 10**12:
        raise ValidationError(
            "Units × price must be below 1,000,000,000,000. Check both; report more in parts, each"
            " under its own request_id.",
            code="amount_limit",
        )
