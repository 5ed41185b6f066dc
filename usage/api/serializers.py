"""The fields of a usage record on the wire: each is checked and described in one place."""

from __future__ import annotations

import datetime as dt
import re
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
_LARGEST_ID_DIGITS = len(str(LARGEST_ID))
_DIGITS = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_PLAIN_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_LONGEST_NUMBER = 100
_MOST_UNKNOWN_FIELDS = 20
_LEFT_OUT = object()


def _string(pattern: str, longest: int) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{pattern}$", "maxLength": longest}


@extend_schema_field(_string("[!-~]+", validators.REQUEST_ID_LENGTH) | {"minLength": 1})
class RequestIdSerializerField(serializers.Field[Any, Any, Any, Any]):
    """The caller's own name for the fact."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise ValidationError("Send a string.", code="type")
        if not validators.is_request_id(data):
            raise ValidationError(validators.REQUEST_ID_RULE, code="invalid")
        return data


@extend_schema_field({"type": "integer", "format": "int64", "minimum": 1})
class CustomerIdField(serializers.Field[Any, Any, Any, Any]):
    """A JSON integer, or its digits in a string, as protobuf writes 64-bit numbers."""

    def to_internal_value(self, data: Any) -> int:
        return read_customer_id(data)


def read_customer_id(data: Any) -> int:
    """Return the customer id that a JSON value states; raises ValidationError."""
    if isinstance(data, str) and _DIGITS.fullmatch(data):
        data = int(data) if len(data) <= _LARGEST_ID_DIGITS else LARGEST_ID + 1
    if not isinstance(data, int) or isinstance(data, bool):
        raise ValidationError(
            "Send a whole number, or a string of its digits: without sign, space, point and leading"
            " zero.",
            code="type",
        )
    if not 1 <= data <= LARGEST_ID:
        raise ValidationError(f"A customer id is between 1 and {LARGEST_ID}.", code="range")
    return data


@extend_schema_field(
    {
        "type": "string",
        "minLength": 1,
        "description": (
            f"1 to {validators.SERVICE_LENGTH} characters after trimming and Unicode NFC, without"
            " control, format, surrogate and separator characters."
        ),
    }
)
class ServiceField(serializers.Field[Any, Any, Any, Any]):
    """A name, trimmed and normalised."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise ValidationError("Send a string.", code="type")
        return validators.normal_service(data)


class DecimalSerializerField(serializers.Field[Any, Any, Any, Any]):
    """A string of plain digits, or a JSON number; exact either way."""

    def to_internal_value(self, data: Any) -> Decimal:
        if not isinstance(data, str | int | Decimal) or isinstance(data, bool):
            raise ValidationError(
                'Send a string of digits, such as "0.05", or a number.', code="type"
            )
        if isinstance(data, str) and (
            len(data) > _LONGEST_NUMBER or not _PLAIN_DECIMAL.fullmatch(data)
        ):
            raise ValidationError(
                'A number in quotes has plain digits and at most one point, such as "0.05", and no'
                f" more than {_LONGEST_NUMBER} characters.",
                code="invalid",
            )
        return self.fit(Decimal(data))

    def fit(self, value: Decimal) -> Decimal:
        raise AssertionError("each field has bounds of its own")


def _decimal(max_digits: int, decimal_places: int, *, example: str) -> dict[str, Any]:
    """Describe a decimal as a string: code generators make a float of a JSON number."""
    before = max_digits - decimal_places
    pattern = rf"0*[0-9]{{1,{before}}}(\.[0-9]{{1,{decimal_places}}}0*)?"
    return {**_string(pattern, _LONGEST_NUMBER), "examples": [example]}


@extend_schema_field(_decimal(**validators.UNITS_DIGITS, example="58"))
class UnitsField(DecimalSerializerField):
    """More than 0."""

    def fit(self, value: Decimal) -> Decimal:
        return validators.fit_units(value)


@extend_schema_field(_decimal(**validators.PRICE_DIGITS, example="0.05"))
class PriceField(DecimalSerializerField):
    """0 or more."""

    def fit(self, value: Decimal) -> Decimal:
        return validators.fit_price(value)


@extend_schema_field(
    {"type": "string", "format": "date-time", "examples": ["2026-11-22T10:00:00Z"]}
)
class InstantField(serializers.Field[Any, Any, Any, Any]):
    """A date and time with an offset, in UTC and cut to the millisecond."""

    def to_internal_value(self, data: Any) -> dt.datetime:
        return read_instant(data)


class UsageSerializer(serializers.Serializer[Any]):
    """One fact: this customer consumed these units of this service at this price."""

    request_id = RequestIdSerializerField(
        help_text="Your own name for this fact, unique for ever over the whole service. Make it"
        " once, before the first try, and send the same id with every retry."
    )
    customer_id = CustomerIdField(
        help_text="Who consumed, 1 to 2⁶³−1. A string of the digits is accepted too: use that in"
        " languages whose numbers are exact only up to 2⁵³, such as JavaScript."
    )
    service = ServiceField()
    units_consumed = UnitsField(
        help_text="More than 0; at most 12 digits before and 6 after the point, without exponent."
        " A JSON number is accepted too."
    )
    price_per_unit = PriceField(
        help_text="0 or more, in the customer's currency; at most 6 digits before and 12 after the"
        " point, without exponent. Units × price must stay below 10¹². A JSON number is accepted"
        " too."
    )
    occurred_at = InstantField(
        required=False,
        help_text="RFC 3339 with an offset or Z, without leap seconds; kept to the millisecond. At"
        " most 5 minutes ahead and at most 366 days back. Make it once, before the first try."
        " Left out: when the service recorded the usage.",
    )


class RecordReader:
    """Checks records as parsed from JSON.

    One reader serves all requests, since making a serializer takes longer than all of its checks.
    """

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {**UsageSerializer().fields}
        self.names = {alias: name for name in self.fields for alias in (name, camel_case(name))}
        self._checks = {name: field.to_internal_value for name, field in self.fields.items()}
        self._request_id = self._checks["request_id"]
        self._customer_id = self._checks["customer_id"]
        self._units = self._checks["units_consumed"]
        self._instant = self._checks["occurred_at"]
        # Reports repeat few services, prices and small numbers of units. What cannot be remembered,
        # a list or an object, is a TypeError here, and is named by the field's own check.
        self._service = remembered(self._checks["service"])
        self._price = remembered(self._checks["price_per_unit"])
        self._units_and_price = remembered(self._read_units_and_price)

    def read(self, data: Any) -> Fact:
        """Return the fact that one record states; raises Problem with all that is wrong with it."""
        try:
            return self._fact(**data)
        except (TypeError, ValidationError):  # a field too many or too few, or a value at fault
            return self._read_field_by_field(data)

    def _fact(
        self,
        *,
        request_id: Any,
        customer_id: Any,
        service: Any,
        units_consumed: Any,
        price_per_unit: Any,
        occurred_at: Any = _LEFT_OUT,
    ) -> Fact:
        """Return the fact of a record with the right fields; raises the first fault."""
        units, price = self._units_and_price(units_consumed, price_per_unit)
        return Fact(
            self._request_id(request_id),
            self._customer_id(customer_id),
            self._service(service),
            units,
            price,
            None if occurred_at is _LEFT_OUT else self._instant(occurred_at),
        )

    def _read_units_and_price(self, units: Any, price: Any) -> tuple[Decimal, Decimal]:
        pair = self._units(units), self._price(price)
        validators.validate_amount(*pair)
        return pair

    def _read_field_by_field(self, data: Any) -> Fact:
        if not isinstance(data, dict):
            raise validation_error(
                [InvalidField("record", "type", "A record is an object with named fields.")]
            )
        invalid: list[InvalidField] = []
        given = data if data.keys() <= self.fields.keys() else self._by_name(data, invalid)
        values: dict[str, Any] = {}
        for name, check in self._checks.items():
            if name not in given:
                if self.fields[name].required and not any(fault.field == name for fault in invalid):
                    invalid.append(InvalidField(name, "required", "This field is missing."))
                continue
            try:
                values[name] = check(given[name])
            except ValidationError as error:
                invalid.append(_invalid_field(name, error))
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

    def _by_name(self, data: dict[str, Any], invalid: list[InvalidField]) -> dict[str, Any]:
        """Return the fields under their snake_case names; add to `invalid` those that are not."""
        given: dict[str, Any] = {}
        unknown: list[str] = []
        for key, value in data.items():
            name = self.names.get(key)
            if name is None:
                unknown.append(key)
            elif name in given:
                detail = "Field sent as both snake_case and camelCase. Send one of them."
                invalid.append(InvalidField(name, "twice", detail))
            else:
                given[name] = value
        fields = f"Unknown field. The fields are {', '.join(self.fields)}."
        invalid += [
            InvalidField(_shown(key), "unknown", fields) for key in unknown[:_MOST_UNKNOWN_FIELDS]
        ]
        if more := unknown[_MOST_UNKNOWN_FIELDS:]:
            invalid.append(
                InvalidField("record", "unknown", f"{len(more)} more fields are unknown.")
            )
        return given


def camel_case(name: str) -> str:
    """Return a field's name as the company's sample data spells it."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _invalid_field(name: str, error: ValidationError) -> InvalidField:
    return InvalidField(name, error.code or "invalid", str(error.message))


def _shown(key: str) -> str:
    # Half of a surrogate pair is not a character: many callers could not read an answer with it.
    shown = key[:40].encode(errors="backslashreplace").decode()
    return shown if len(key) <= 40 else f"{shown}…"
