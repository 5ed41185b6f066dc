"""One fact to report, checked when it is made and unchangeable from then on."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from os import urandom
from typing import Any, SupportsIndex

from billing_client.decimals import Number, as_int, exact, product
from billing_client.errors import FieldError, ValidationError

REQUIRED = ("customer_id", "service", "units_consumed", "price_per_unit")
FIELDS = (*REQUIRED, "request_id", "occurred_at")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_LARGEST_CUSTOMER_ID = 2**63 - 1
_AMOUNT_LIMIT = 10**12
# NFC takes quadratic time in the worst case, and joins at most four characters into one.
_LONGEST_SPELLING = 400
_LONGEST_SHOWN = 60
_quoted = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True, init=False)
class Usage:
    """A customer's use of a service at a price; immutable, and it carries its own id.

    customer_id     1 to 2**63 - 1
    service         1 to 100 printable characters, kept trimmed and in Unicode's NFC form
    units_consumed  above 0, at most 12 digits before and 6 after the point
    price_per_unit  0 or more, at most 6 digits before and 12 after the point; units times price
                    stays below 10**12. Numbers are int (numpy's too), str ("0.05"), Decimal or
                    float; a float counts as the decimal Python prints for it, and none is ever
                    rounded.
    request_id      the idempotency key: 1 to 128 printable ASCII characters without spaces.
                    A random UUID if not given. Make it once per fact and keep it for every
                    retry, also across a crash of your own process: the service bills an id once,
                    and the same fact under two ids twice. ``dataclasses.replace`` keeps it.
    occurred_at     when it was used: a datetime with a time zone, kept in UTC and cut (not
                    rounded) to the millisecond. Make it once, together with the id, and keep
                    both for every retry. None means when the service records it: a retry
                    after midnight at the end of a month then lands on the next month's bill.
                    Text is not accepted; ``datetime.fromisoformat`` reads RFC 3339. How far back
                    or ahead it may lie is the service's to judge, by the service's clock, and
                    only for ids it does not hold yet.

    Raises ValidationError that names every field at fault.
    """

    customer_id: int
    service: str
    units_consumed: Decimal
    price_per_unit: Decimal
    request_id: str
    occurred_at: datetime | None

    def __init__(
        self,
        *,
        customer_id: SupportsIndex,
        service: str,
        units_consumed: Number,
        price_per_unit: Number,
        request_id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> None:
        given = {
            "customer_id": customer_id,
            "service": service,
            "units_consumed": units_consumed,
            "price_per_unit": price_per_unit,
            "request_id": _random_id() if request_id is None else request_id,
            "occurred_at": occurred_at,
        }
        faults: list[FieldError] = []
        for name, value in given.items():
            try:
                object.__setattr__(self, name, _RULES[name](value))
            except ValueError as unfit:
                faults.append(FieldError(name, "invalid", f"{name} {unfit}{_given(value)}"))
        has_amount = {"units_consumed", "price_per_unit"}.isdisjoint(one.field for one in faults)
        if has_amount and product(self.units_consumed, self.price_per_unit) >= _AMOUNT_LIMIT:
            text = "units_consumed times price_per_unit is not below 1000000000000"
            faults.append(FieldError("units_consumed", "amount_too_large", text))
        if faults:
            raise invalid_usage(faults, getattr(self, "request_id", None))

    def to_wire(self, *, occurred_at: datetime | None = None) -> dict[str, Any]:
        """The JSON object of the contract: decimals as plain strings, the instant in UTC with Z.

        ``occurred_at``, in UTC, is used if the usage has none.
        """
        wire: dict[str, Any] = json.loads(self.to_json(occurred_at=occurred_at))
        return wire

    def to_json(self, *, occurred_at: datetime | None = None) -> bytes:
        """The bytes that are sent, in UTF-8; the same for the same usage, every time.

        ``occurred_at`` as for to_wire.
        """
        # Encoding a dict would take four times as long.
        wire = (
            f'{{"request_id":{_quoted(self.request_id)},"customer_id":{self.customer_id}'
            f',"service":{_quoted(self.service)},"units_consumed":"{self.units_consumed:f}"'
            f',"price_per_unit":"{self.price_per_unit:f}"'
        )
        at = self.occurred_at or occurred_at
        if at is not None:
            # In UTC already, and cut to the millisecond.
            instant = at.replace(tzinfo=None).isoformat(timespec="milliseconds")
            wire += f',"occurred_at":"{instant}Z"'
        return f"{wire}}}".encode()


def camel_case(name: str) -> str:
    """The field's name as the company's sample data spells it, which the service takes too."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _random_id() -> str:
    """A UUID of version 4 (RFC 9562), whose object would take twice as long to make."""
    digits = urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def invalid_usage(faults: list[FieldError], request_id: object) -> ValidationError:
    """The error for usage with these faults; it names the id if that is a text."""
    details = "; ".join(fault.detail for fault in faults)
    ids = [request_id] if isinstance(request_id, str) else []
    names = "".join(f" {name[:_LONGEST_SHOWN]!r}" for name in ids)
    text = f"The usage{names} cannot be reported: {details}."
    return ValidationError(text, fields=faults, request_ids=ids)


def _given(value: object) -> str:
    """The value for a message, if people can read it; exact() says how Python prints a float."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal | datetime):
        return ""
    if isinstance(value, int) and abs(value) >= 10**_LONGEST_SHOWN:
        return ""  # Python refuses to print very long ones
    text = repr(value)
    return f", got {text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + '…'}"


def _customer_id(value: object) -> int:
    number = as_int(value, "an int")
    if not 1 <= number <= _LARGEST_CUSTOMER_ID:
        raise ValueError(f"is not between 1 and {_LARGEST_CUSTOMER_ID}")
    return number


def _service(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is a {type(value).__name__}, expected a str")
    name = str.__str__(value).strip()
    if not name.isascii() and len(name) <= _LONGEST_SPELLING:
        name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= 100:
        raise ValueError(f"has {len(name)} characters after trimming, expected 1 to 100")
    # isprintable() is faster, and false for a few characters that are allowed.
    if not name.isprintable() and any(unicodedata.category(c) in _UNPRINTABLE for c in name):
        raise ValueError(
            "has control, format, surrogate or line separator characters, expected printable text"
        )
    return name


def _units(value: Number) -> Decimal:
    number = exact(value, whole=12, places=6)
    if not number:
        raise ValueError("is 0, expected more")
    return number


def _request_id(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is a {type(value).__name__}, expected a str")
    if not _REQUEST_ID.fullmatch(value):
        raise ValueError("is not 1 to 128 printable ASCII characters without spaces")
    return str.__str__(value)


def _occurred_at(value: object) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise ValueError(f"is a {type(value).__name__}, expected a datetime with a time zone")
    if value.utcoffset() is None:
        raise ValueError("has no time zone, expected one such as datetime.now(timezone.utc)")
    try:
        at = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999 in UTC") from None
    cut = at.microsecond // 1000 * 1000
    return datetime(at.year, at.month, at.day, at.hour, at.minute, at.second, cut, tzinfo=UTC)


_RULES: dict[str, Callable[[Any], object]] = {
    "customer_id": _customer_id,
    "service": _service,
    "units_consumed": _units,
    "price_per_unit": partial(exact, whole=6, places=12),
    "request_id": _request_id,
    "occurred_at": _occurred_at,
}
