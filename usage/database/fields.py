"""Model fields and expressions that keep decimals exact on every engine."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any, cast

from django.core import checks
from django.core.exceptions import FieldError, ValidationError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import lookups
from django.db.models.expressions import (
    Col,
    Combinable,
    CombinedExpression,
    Expression,
    F,
    Subquery,
    Value,
)
from django.db.models.sql import Query

from usage.money import EXACT

_SQLITE_MAX = 2**63 - 1


class ExactDecimalField(models.Field):  # type: ignore[type-arg]  # generic only in the stubs
    """A decimal that comes back digit for digit, as `Decimal`.

    NUMERIC on PostgreSQL. On SQLite, whose NUMERIC is a float, a 64-bit integer counting
    units of the last decimal place, with a CHECK that refuses what does not fit.

    It is not a `DecimalField`, so arithmetic raises `FieldError` instead of being off by a power of
    ten; only sums and differences of one scale are read, with their `output_field` given.
    """

    description = "Exact decimal number"
    empty_strings_allowed = False

    def __init__(self, *args: Any, max_digits: int, decimal_places: int, **kwargs: Any) -> None:
        self.max_digits = max_digits
        self.decimal_places = decimal_places
        self._quantum = Decimal(1).scaleb(-decimal_places)
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        kwargs |= {"max_digits": self.max_digits, "decimal_places": self.decimal_places}
        return name, path, args, kwargs

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        errors = super().check(**kwargs)
        if not 0 <= self.decimal_places <= self.max_digits:
            errors.append(
                checks.Error("decimal_places must lie between 0 and max_digits.", obj=self)
            )
        return errors

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        if connection.vendor == "sqlite":
            return "bigint"
        return f"numeric({self.max_digits}, {self.decimal_places})"

    def db_check(self, connection: BaseDatabaseWrapper) -> str | None:
        if connection.vendor != "sqlite":
            return None
        column = connection.ops.quote_name(self.column)
        limit = min(10**self.max_digits - 1, _SQLITE_MAX)
        # An overflowing `+` turns an integer into a float: its type gives it away.
        return (
            f"{column} IS NULL OR "
            f"(typeof({column}) = 'integer' AND {column} BETWEEN -{limit} AND {limit})"
        )

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        if value is None or hasattr(value, "resolve_expression"):
            return value
        return self.to_python(value)

    def to_python(self, value: Any) -> Decimal | None:
        """Return `value` as a Decimal of this field's scale; ValidationError if it does not fit."""
        if value is None:
            return None
        if isinstance(value, bool | float):
            raise ValidationError(f"{value!r} is not exact: give a Decimal, an int or a string.")
        try:
            number = Decimal(value)
            scaled = number.quantize(self._quantum, context=EXACT)
        except (InvalidOperation, TypeError, ValueError) as error:
            raise ValidationError(f"{value!r} is not a decimal number that fits.") from error
        if scaled != number or scaled.adjusted() >= self.max_digits - self.decimal_places:
            raise ValidationError(
                f"{value!r} does not fit into {self.max_digits} digits with"
                f" {self.decimal_places} after the point."
            )
        return scaled

    def get_db_prep_value(
        self,
        value: Any,
        connection: BaseDatabaseWrapper,
        prepared: bool = False,  # noqa: FBT001, FBT002 - Django's signature
    ) -> Any:
        if not prepared:
            value = self.get_prep_value(value)
        if value is None or connection.vendor != "sqlite":
            return value
        number = int(value.scaleb(self.decimal_places, context=EXACT))
        if abs(number) > _SQLITE_MAX:
            raise ValidationError(f"{value} does not fit into SQLite's 64 bits.")
        return number

    def from_db_value(
        self, value: Any, expression: Expression, connection: BaseDatabaseWrapper
    ) -> Decimal | None:
        if type(expression) is not Col:
            refuse_mixed_scales(expression, self.decimal_places)
        if value is None:
            return None
        if connection.vendor == "sqlite":
            if not isinstance(value, int):
                raise FieldError(
                    f"{value!r} is not an exact decimal: the expression left whole numbers."
                )
            return Decimal(value).scaleb(-self.decimal_places, context=EXACT)
        # NaN, which no check admits, is passed on: verification names its row.
        if (
            not value.same_quantum(self._quantum)  # as the column's own values are
            and value.is_finite()
            and value.as_tuple().exponent < -self.decimal_places
        ):
            raise FieldError(f"{value} is not exact: the expression left the scale of its field.")
        return cast("Decimal", value)

    def value_to_string(self, obj: models.Model) -> str:
        value = self.value_from_object(obj)
        return "" if value is None else f"{value:f}"


def refuse_mixed_scales(expression: Any, decimal_places: int) -> None:
    """Raise FieldError where an expression's integers on SQLite would have a wrong scale."""
    parts = expression.flatten() if isinstance(expression, Expression) else [expression]
    for part in parts:
        if isinstance(part, CombinedExpression) and part.connector not in (
            Combinable.ADD,
            Combinable.SUB,
        ):
            raise FieldError(
                "Exact decimals can be added and subtracted in the database, nothing else."
            )
        if isinstance(part, Col | F | Query | Subquery | Value):
            # Of expressions without one, Django's `output_field` raises an error that says nothing.
            name = "_output_field_or_none" if isinstance(part, Expression) else "output_field"
            field = getattr(part, name, None)
            if not isinstance(field, ExactDecimalField) or field.decimal_places != decimal_places:
                raise FieldError("The parts of an exact decimal expression must share one scale.")


class _SameScale:
    """A comparison that refuses values of a different scale, or of one not known yet."""

    def get_prep_lookup(self) -> Any:
        rhs, decimal_places = self.rhs, self.lhs.output_field.decimal_places  # type: ignore[attr-defined]  # of the lookup
        for part in rhs if isinstance(rhs, list | tuple) else [rhs]:
            if hasattr(part, "resolve_expression"):
                refuse_mixed_scales(part, decimal_places)
        return super().get_prep_lookup()  # type: ignore[misc]  # of the lookup


for _lookup in (
    lookups.Exact,
    lookups.GreaterThan,
    lookups.GreaterThanOrEqual,
    lookups.LessThan,
    lookups.LessThanOrEqual,
    lookups.In,
    lookups.Range,
):
    ExactDecimalField.register_lookup(type(_lookup.__name__, (_SameScale, _lookup), {}))


class BytewiseCharField(models.CharField):  # type: ignore[type-arg]  # generic only in the stubs
    """Text that is compared byte by byte, without the pattern index Django adds to a text key."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        if connection.vendor == "postgresql":
            return f'character varying({self.max_length}) COLLATE "C"'
        return super().db_type(connection) or ""

    def rel_db_type(self, connection: BaseDatabaseWrapper) -> str:
        return self.db_type(connection)
