"""No statement of SQL can store what Python cannot read, in any column of any table."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.db import DatabaseError, connection, models, transaction

from usage.database.fields import ExactDecimalField
from usage.models import ApiKey, Bill, UsageRecord
from usage.tests.rows import OF_A_BILL, OF_A_KEY, insert, valid

# Other tests measure this code.
pytestmark = [pytest.mark.django_db, pytest.mark.no_cover]

UNREADABLE: dict[str, dict[type[models.Field[Any, Any]], list[str]]] = {
    "postgresql": {
        models.DateTimeField: ["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'9999-06-01'"],
        models.DateField: ["'infinity'", "'-infinity'", "'0044-03-01 BC'", "'9999-06-01'"],
        ExactDecimalField: ["'NaN'", "'Infinity'", "'-Infinity'"],
    },
    "sqlite": {
        models.DateTimeField: [
            "'garbage'",
            "'2026-02-30 00:00:00'",
            "'2026-11-10'",
            "'2026-11-10 12:00:00.'",
            "'2026-11-10 12:00:00+01:00'",
            "'0044-03-15 00:00:00'",
            "x'00'",
            "2460000",
        ],
        models.DateField: ["'garbage'", "'2026-02-30'", "'0044-03-01'", "'now'", "2460000"],
        ExactDecimalField: ["'garbage'", "1.5", "9e999", "x'00'"],
        models.BooleanField: ["2", "'garbage'"],
        models.IntegerField: ["'garbage'", "1.5", "x'00'"],
        models.CharField: ["x'6162'"],
    },
}


def kind_of(field: models.Field[Any, Any]) -> type[models.Field[Any, Any]] | None:
    known = UNREADABLE[connection.vendor]
    if isinstance(field, models.ForeignKey):
        field = field.target_field
    kinds = [kind for kind in type(field).__mro__ if kind in known]
    return None if isinstance(field, models.AutoField) else next(iter(kinds), None)


def unreadable_values() -> list[Any]:
    return [
        pytest.param(model, field, literal, id=f"{model.__name__}.{field.name} {literal}")
        for model in apps.get_app_config("usage").get_models()
        for field in model._meta.concrete_fields
        if (kind := kind_of(field)) is not None
        for literal in UNREADABLE[connection.vendor][kind]
    ]


@pytest.mark.parametrize(("model", "field", "literal"), unreadable_values())
def test_a_value_that_python_cannot_read_is_refused(
    model: type[models.Model], field: models.Field[Any, Any], literal: str, customer: Any
) -> None:
    changes = {}
    if model in OF_A_BILL:
        changes["bill_id"] = Bill.objects.create(**valid(Bill)).pk
    if model in OF_A_KEY:
        changes["api_key_id"] = ApiKey.objects.create(**valid(ApiKey)).pk
    if field.name in {"voids", "record"}:
        insert(UsageRecord)
    row = model(**valid(model, **changes))
    fields = [f for f in model._meta.concrete_fields if not isinstance(f, models.AutoField)]
    params = [other.get_db_prep_save(other.pre_save(row, add=True), connection) for other in fields]
    values = ", ".join(literal if other is field else "%s" for other in fields)
    params = [param for other, param in zip(fields, params, strict=True) if other is not field]
    names = ", ".join(other.column for other in fields)

    with pytest.raises(DatabaseError) as error, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {model._meta.db_table} ({names}) VALUES ({values})", params)

    assert "UNIQUE" not in str(error.value)
    assert "NOT NULL" not in str(error.value)
