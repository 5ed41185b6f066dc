"""The fields of a usage record on the wire: one place for checking them and for describing them."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from functools import lru_cache
from typing import Any

from django.core.exceptions import ValidationError
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from usage import validators
from usage.api.problems import FieldError, validation_error
from usage.ledger.facts import Fact
from usage.models.customer import LARGEST_ID

_TIME = r"([01]\d|2[0-3]):[0-5]\d"
# RFC 3339, section 5.6, without leap seconds.
_INSTANT = re.compile(rf"\d{{4}}-\d\d-\d\d[Tt]{_TIME}:[0-5]\d(\.\d+)?([Zz]|[+-]{_TIME})", re.ASCII)
_PLAIN_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_LONGEST_NUMBER = 100
MOST_RECORDS = 1000
_LONGEST_INSTANT = 64
_MOST_UNKNOWN_FIELDS = 20
# Reports name few services, prices and small numbers of units, again and again.
_MOST_REMEMBERED = 1024


def _string(pattern: str, longest: int) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{pattern}$", "maxLength": longest}


@extend_schema_field(_string("[!-~]+", validators.REQUEST_ID_LENGTH) | {"minLength": 1})
class RequestIdField(serializers.Field[Any, Any, Any, Any]):
    """The caller's own name for the fact."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise ValidationError("Give a string.", code="type")
        validators.validate_request_id(data)
        return data


@extend_schema_field({"type": "integer", "format": "int64", "minimum": 1, "maximum": LARGEST_ID})
class CustomerIdField(serializers.Field[Any, Any, Any, Any]):
    """A JSON integer, and no other number."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            raise ValidationError(
                "Give a whole number, not quoted and without a point.", code="type"
            )
        if not 1 <= data <= LARGEST_ID:
            raise ValidationError(f"A customer id lies between 1 and {LARGEST_ID}.", code="range")
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

    normal = staticmethod(lru_cache(_MOST_REMEMBERED)(validators.normal_service))

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise ValidationError("Give a string.", code="type")
        return self.normal(data)


class ExactDecimalField(serializers.Field[Any, Any, Any, Any]):
    """A JSON number, or a string of plain digits."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # True is not 1 here, and both are hashed alike.
        self._remembered = lru_cache(_MOST_REMEMBERED, typed=True)(self._exact)

    def to_internal_value(self, data: Any) -> Decimal:
        if not isinstance(data, str | int | Decimal):
            raise self._not_a_number()
        return self._remembered(data)

    def fit(self, value: Decimal) -> Decimal:
        raise AssertionError("each field has bounds of its own")

    def _exact(self, data: str | int | Decimal) -> Decimal:
        if isinstance(data, bool):
            raise self._not_a_number()
        if isinstance(data, str) and not _is_plain(data):
            raise ValidationError(
                'A number in quotes has plain digits and at most one point, such as "0.05", and no'
                f" more than {_LONGEST_NUMBER} characters.",
                code="invalid",
            )
        return self.fit(Decimal(data))

    @staticmethod
    def _not_a_number() -> ValidationError:
        return ValidationError("Give a number, or a string of digits.", code="type")


def _is_plain(text: str) -> bool:
    return len(text) <= _LONGEST_NUMBER and _PLAIN_DECIMAL.fullmatch(text) is not None


def _decimal(max_digits: int, decimal_places: int, *, minimum: str) -> dict[str, Any]:
    before = max_digits - decimal_places
    nonzero = "(?=.*[1-9])" if minimum == "exclusiveMinimum" else ""
    return {
        "oneOf": [
            # No multipleOf: many a validator divides floats, and would refuse 0.05.
            {"type": "number", minimum: 0, "exclusiveMaximum": 10**before},
            _string(
                rf"{nonzero}0*[0-9]{{1,{before}}}(\.[0-9]{{1,{decimal_places}}}0*)?",
                _LONGEST_NUMBER,
            ),
        ]
    }


@extend_schema_field(_decimal(**validators.UNITS_DIGITS, minimum="exclusiveMinimum"))
class UnitsField(ExactDecimalField):
    """More than 0."""

    def fit(self, value: Decimal) -> Decimal:
        return validators.fit_units(value)


@extend_schema_field(_decimal(**validators.PRICE_DIGITS, minimum="minimum"))
class PriceField(ExactDecimalField):
    """0 or more."""

    def fit(self, value: Decimal) -> Decimal:
        return validators.fit_price(value)


@extend_schema_field(
    {
        "type": "string",
        "format": "date-time",
        "description": (
            "RFC 3339 with an offset or Z, without leap seconds; kept to the millisecond. At most"
            " 5 minutes ahead and at most 366 days back. Default: when the service recorded it."
        ),
    }
)
class InstantField(serializers.Field[Any, Any, Any, Any]):
    """A date and time with an offset, in UTC and cut to the millisecond."""

    def to_internal_value(self, data: Any) -> dt.datetime:
        if isinstance(data, str) and len(data) <= _LONGEST_INSTANT and _INSTANT.fullmatch(data):
            try:
                value = dt.datetime.fromisoformat(data.upper()).astimezone(dt.UTC)
            except (ValueError, OverflowError):
                pass
            else:
                return value.replace(microsecond=value.microsecond // 1000 * 1000)
        raise ValidationError(
            "Give a date and time with an offset as RFC 3339 has it, such as 2026-11-22T10:00:00Z.",
            code="type",
        )


class UsageSerializer(serializers.Serializer[Any]):
    """One fact: this customer consumed these units of this service at this price."""

    request_id = RequestIdField(
        help_text="Your own name for this fact, unique for ever over the whole service. Send the"
        " same id with every retry of the same fact."
    )
    customer_id = CustomerIdField(help_text="Who consumed; written without a point.")
    service = ServiceField()
    units_consumed = UnitsField(
        help_text="More than 0; at most 12 digits before and 6 after the point."
    )
    price_per_unit = PriceField(
        help_text="0 or more, in the customer's currency; at most 6 digits before and 12 after the"
        " point. Units × price must stay below 10¹²."
    )
    occurred_at = InstantField(required=False)


class RecordReader:
    """Checks records as parsed from JSON.

    One is made and serves all requests: making a serializer costs more than all of its checks.
    """

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {**UsageSerializer().fields}
        self.names = {alias: name for name in self.fields for alias in (name, camel_case(name))}
        self._checks = [
            (name, field.to_internal_value, field.required) for name, field in self.fields.items()
        ]

    def read(self, data: Any) -> Fact:
        """Return the fact that one record states; raises Problem with all that is wrong with it."""
        if not isinstance(data, dict):
            raise validation_error(
                [FieldError("record", "type", "A record is an object with named fields.")]
            )
        errors: list[FieldError] = []
        given = data if data.keys() <= self.fields.keys() else self._by_name(data, errors)
        values: dict[str, Any] = {}
        for name, check, required in self._checks:
            if name not in given:
                if required and not any(error.field == name for error in errors):
                    errors.append(FieldError(name, "required", "This field is missing."))
                continue
            try:
                values[name] = check(given[name])
            except ValidationError as error:
                errors.append(_field_error(name, error))
        _check_amount(values, errors)
        if errors:
            raise validation_error(errors)
        return Fact(
            values["request_id"],
            values["customer_id"],
            values["service"],
            values["units_consumed"],
            values["price_per_unit"],
            values.get("occurred_at"),
        )

    def _by_name(self, data: dict[str, Any], errors: list[FieldError]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        unknown: list[str] = []
        for key, value in data.items():
            name = self.names.get(key)
            if name is None:
                unknown.append(key)
            elif name in given:
                errors.append(
                    FieldError(name, "twice", "The field stands here in both spellings: give one.")
                )
            else:
                given[name] = value
        fields = f"The fields are {', '.join(self.fields)}."
        errors += [
            FieldError(_shown(key), "unknown", fields) for key in unknown[:_MOST_UNKNOWN_FIELDS]
        ]
        if more := unknown[_MOST_UNKNOWN_FIELDS:]:
            errors.append(FieldError("record", "unknown", f"{len(more)} more fields are unknown."))
        return given


def _check_amount(values: dict[str, Any], errors: list[FieldError]) -> None:
    if "units_consumed" in values and "price_per_unit" in values:
        try:
            validators.validate_amount(values["units_consumed"], values["price_per_unit"])
        except ValidationError as error:
            errors.append(_field_error("units_consumed", error))


def camel_case(name: str) -> str:
    """Return a field's name as the company's sample data spells it."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _field_error(name: str, error: ValidationError) -> FieldError:
    return FieldError(name, error.code or "invalid", str(error.message))


def _shown(key: str) -> str:
    # Half of a surrogate pair is no character: many a caller could not read an answer with one.
    shown = key[:40].encode(errors="backslashreplace").decode()
    return shown if len(key) <= 40 else f"{shown}…"
