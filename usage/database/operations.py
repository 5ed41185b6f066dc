"""Operations of migrations that block others only briefly, however large the tables."""

from __future__ import annotations

import sys
from typing import Any

from django.contrib.postgres import operations
from django.db import IntegrityError, transaction
from django.db.migrations.operations import RemoveIndex
from django.db.migrations.operations.models import AddConstraint
from django.db.models import CheckConstraint, Q

from usage.database.transactions import lift_statement_timeout


class AddCheck(operations.AddConstraintNotValid):
    """Adds a check that PostgreSQL holds for new rows at once, and for old ones by `ValidateCheck`.

    Reading the table for it would block recording. SQLite makes the table anew, so there rows that
    break the check are named and stop the migration.
    """

    model_name: str
    constraint: CheckConstraint

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Add the check; raises IntegrityError, which names the rows, on SQLite alone."""
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)
            return
        model = to_state.apps.get_model(app_label, self.model_name)
        rows = model.objects.using(schema_editor.connection.alias)
        if broken := list(
            rows.filter(~Q(self.constraint.condition)).values_list("pk", flat=True)[:5]
        ):
            raise IntegrityError(
                f"{model._meta.db_table} has rows that break {self.constraint.name}:"
                f" {', '.join(map(str, broken))}. Correct them with sqlite3, then migrate again."
            )
        AddConstraint.database_forwards(self, app_label, schema_editor, from_state, to_state)


class ValidateCheck(operations.ValidateConstraint):
    """Checks the rows that were there before a check; in a migration after the one that adds it.

    Rows that break it are reported and left alone: `verify_bills` names them.
    """

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        connection = schema_editor.connection
        if connection.vendor != "postgresql":
            return
        lift_statement_timeout(using=connection.alias)
        try:
            with transaction.atomic(using=connection.alias):
                super().database_forwards(app_label, schema_editor, from_state, to_state)
        except IntegrityError as error:
            sys.stderr.write(f"\n{error}Run manage.py verify_bills, which names the rows.\n")


class DropIndex(operations.RemoveIndexConcurrently):
    """Removes an index; on PostgreSQL without blocking those who use the table."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        self._operation(schema_editor).database_forwards(
            self, app_label, schema_editor, from_state, to_state
        )

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Add the index again, in place of what an interrupted try has left of it."""
        operation = self._operation(schema_editor)
        if schema_editor.connection.vendor == "postgresql":
            operation.database_forwards(self, app_label, schema_editor, to_state, from_state)
        operation.database_backwards(self, app_label, schema_editor, from_state, to_state)

    @staticmethod
    def _operation(schema_editor: Any) -> type[RemoveIndex]:
        if schema_editor.connection.vendor == "postgresql":
            return operations.RemoveIndexConcurrently
        return RemoveIndex
