"""The fields of a usage record on the wire: each is checked and described in one place."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from usage import validators
from usage.api.instants import read_instant
from usage.api.problems import InvalidField, validation_error
from usage.api.remembering import remembered
from usage.ledger.facts import Fact
from usage.models.customer import LARGEST_ID

MOST_RECORDS = 1000
_DIGITS = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_PLAIN_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_LONGEST_NUMBER = 100
_MOST_UNKNOWN_FIELDS = 20
_LEFT_OUT = object()


class WireField(serializers.Field[Any, Any, Any, Any]):
    """A field of the wire: the function that reads its JSON value, and its schema for OpenAPI.

    `read` returns the value as it is recorded; it raises ValidationError.
    """

    def __init__(self, read: Callable[[Any], Any], schema: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.read = read
        extend_schema_field(schema)(self)  # type: ignore[type-var]  # it takes instances too


def _read_request_id(data: Any) -> str:
    if not isinstance(data, str):
        raise ValidationError("Send a string.", code="type")
    if not validators.is_request_id(data):
        raise ValidationError(validators.REQUEST_ID_RULE, code="invalid")
    return data


def read_customer_id(data: Any) -> int:
    """Return the customer id that a JSON value states; raises ValidationError.

    It may be the digits in a string, as protobuf writes 64-bit numbers.
    """
    if isinstance(data, str) and _DIGITS.fullmatch(data):
        data = int(data) if len(data) <= len(str(LARGEST_ID)) else LARGEST_ID + 1
    if not isinstance(data, int) or isinstance(data, bool):
        raise ValidationError(
            "Send a whole number, or a string of its digits: without sign, space, point and leading"
            " zero.",
            code="type",
        )
    if not 1 <= data <= LARGEST_ID:
        raise ValidationError(f"A customer id is between 1 and {LARGEST_ID}.", code="range")
    return data


def _read_service(data: Any) -> str:
    if not isinstance(data, str):
        raise ValidationError("Send a string.", code="type")
    return validators.normal_service(data)


def _read_decimal(data: Any) -> Decimal:
    if not isinstance(data, str | int | Decimal) or isinstance(data, bool):
        raise ValidationError('Send a string of digits, such as "0.05", or a number.', code="type")
    if isinstance(data, str) and (
        len(data) > _LONGEST_NUMBER or not _PLAIN_DECIMAL.fullmatch(data)
    ):
        raise ValidationError(
            'A number in quotes has plain digits and at most one point, such as "0.05", and no'
            f" more than {_LONGEST_NUMBER} characters.",
            code="invalid",
        )
    return Decimal(data)


def _read_units(data: Any) -> Decimal:
    return validators.fit_units(_read_decimal(data))


def _read_price(data: Any) -> Decimal:
    return validators.fit_price(_read_decimal(data))


def _decimal_schema(max_digits: int, decimal_places: int, *, example: str) -> dict[str, Any]:
    """Describe a decimal as a string: code generators make a float of a JSON number."""
    before = max_digits - decimal_places
    return {
        "type": "string",
        "pattern": rf"^0*[0-9]{{1,{before}}}(\.[0-9]{{1,{decimal_places}}}0*)?$",
        "maxLength": _LONGEST_NUMBER,
        "examples": [example],
    }


class UsageSerializer(serializers.Serializer[Any]):
    """One fact: this customer consumed these units of this service at this price."""

    request_id = WireField(
        _read_request_id,
        {
            "type": "string",
            "pattern": "^[!-~]+$",
            "maxLength": validators.REQUEST_ID_LENGTH,
            "minLength": 1,
        },
        help_text="Your own name for this fact, unique for ever over the whole service. Make it"
        " once, before the first try, and send the same id with every retry.",
    )
    customer_id = WireField(
        read_customer_id,
        {"type": "integer", "format": "int64", "minimum": 1},
        help_text="Who consumed, 1 to 2⁶³−1. A string of the digits is accepted too: use that in"
        " languages whose numbers are exact only up to 2⁵³, such as JavaScript.",
    )
    service = WireField(
        _read_service,
        {
            "type": "string",
            "minLength": 1,
            "description": (
                f"1 to {validators.SERVICE_LENGTH} characters after trimming and Unicode NFC,"
                " without control, format, surrogate and separator characters."
            ),
        },
    )
    units_consumed = WireField(
        _read_units,
        _decimal_schema(**validators.UNITS_DIGITS, example="58"),
        help_text="More than 0; at most 12 digits before and 6 after the point, without exponent."
        " A JSON number is accepted too.",
    )
    price_per_unit = WireField(
        _read_price,
        _decimal_schema(**validators.PRICE_DIGITS, example="0.05"),
        help_text="0 or more, in the customer's currency; at most 6 digits before and 12 after the"
        " point, without exponent. Units × price must stay below 10¹². A JSON number is accepted"
        " too.",
    )
    occurred_at = WireField(
        read_instant,
        {"type": "string", "format": "date-time", "examples": ["2026-11-22T10:00:00Z"]},
        required=False,
        help_text="RFC 3339 with an offset or Z, without leap seconds; kept to the millisecond. At"
        " most 5 minutes ahead and at most 366 days back. Make it once, before the first try."
        " Left out: when the service recorded the usage.",
    )


def camel_case(name: str) -> str:
    """Return a field's name as the company's sample data spells it."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def value_of(data: Any, name: str) -> Any:
    """Return the value of a field in a record as parsed from JSON, None if it has none."""
    return data.get(name, data.get(camel_case(name))) if isinstance(data, dict) else None


_FIELDS: dict[str, Any] = {**UsageSerializer().fields}
_NAMES = {alias: name for name in _FIELDS for alias in (name, camel_case(name))}

_remembered_service = remembered(_read_service)
_remembered_price = remembered(_read_price)


@remembered
def _read_units_and_price(units: Any, price: Any) -> tuple[Decimal, Decimal]:
    pair = _read_units(units), _remembered_price(price)
    validators.validate_amount(*pair)
    return pair


def read_record(data: Any) -> Fact:
    """Return the fact that a JSON value states; raises Problem with all that is wrong with it."""
    try:
        return _read_sound(**data)
    except (TypeError, ValidationError):
        # A field too many or too few, a value at fault, or a list or an object, which cannot be
        # remembered.
        return _read_field_by_field(data)


def _read_sound(
    *,
    request_id: Any,
    customer_id: Any,
    service: Any,
    units_consumed: Any,
    price_per_unit: Any,
    occurred_at: Any = _LEFT_OUT,
) -> Fact:
    """Return the fact of a record with the right fields; raises the first fault."""
    units, price = _read_units_and_price(units_consumed, price_per_unit)
    return Fact(
        _read_request_id(request_id),
        read_customer_id(customer_id),
        _remembered_service(service),
        units,
        price,
        None if occurred_at is _LEFT_OUT else read_instant(occurred_at),
    )


def _read_field_by_field(data: Any) -> Fact:
    """Return the fact of a record, or raise Problem with every fault."""
    if not isinstance(data, dict):
        raise validation_error(
            [InvalidField("record", "type", "A record is an object with named fields.")]
        )
    invalid: list[InvalidField] = []
    given = data if data.keys() <= _FIELDS.keys() else _by_name(data, invalid)
    values: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        if name in given:
            try:
                values[name] = field.read(given[name])
            except ValidationError as error:
                invalid.append(_invalid_field(name, error))
        elif field.required and not any(fault.field == name for fault in invalid):
            invalid.append(InvalidField(name, "required", "This field is missing."))
    if "units_consumed" in values and "price_per_unit" in values:
        try:
            validators.validate_amount(values["units_consumed"], values["price_per_unit"])
        except ValidationError as error:
            invalid.append(_invalid_field("units_consumed", error))
    if invalid:
        raise validation_error(invalid)
    return Fact(
        values["request_id"],
        values["customer_id"],
        values["service"],
        values["units_consumed"],
        values["price_per_unit"],
        values.get("occurred_at"),
    )


def _by_name(data: dict[str, Any], invalid: list[InvalidField]) -> dict[str, Any]:
    """Return the fields under their snake_case names; add to `invalid` those that are not."""
    given: dict[str, Any] = {}
    unknown: list[str] = []
    for key, value in data.items():
        name = _NAMES.get(key)
        if name is None:
            unknown.append(key)
        elif name in given:
            detail = "Field sent as both snake_case and camelCase. Send one of them."
            invalid.append(InvalidField(name, "twice", detail))
        else:
            given[name] = value
    fields = f"Unknown field. The fields are {', '.join(_FIELDS)}."
    invalid += [
        InvalidField(_shown(key), "unknown", fields) for key in unknown[:_MOST_UNKNOWN_FIELDS]
    ]
    if more := unknown[_MOST_UNKNOWN_FIELDS:]:
        invalid.append(InvalidField("record", "unknown", f"{len(more)} more fields are unknown."))
    return given


def _invalid_field(name: str, error: ValidationError) -> InvalidField:
    return InvalidField(name, error.code or "invalid", str(error.message))


def _shown(key: str) -> str:
    # Half of a surrogate pair is not a character: many callers could not read an answer with it.
    shown = key[:40].encode(errors="backslashreplace").decode()
    return shown if len(key) <= 40 else f"{shown}…"
