"""Whether a PostgreSQL server is set as the promises need: asked by the commands and by /readyz."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as Advice
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.validation import BaseDatabaseValidation

from usage.database.postgresql.session import ADVISED, REQUIRED, Requirement


class DatabaseValidation(BaseDatabaseValidation):
    """For `check --database default` and `migrate`, which errors stop."""

    def check(self, **_options: Any) -> list[CheckMessage]:
        """Return an error for each requirement that is not met, and advice."""
        return [
            *(Error(text, id="usage.E001") for text in unmet(self.connection, REQUIRED)),
            *(Advice(text, id="usage.W001") for text in unmet(self.connection, ADVISED)),
        ]


def unmet(connection: BaseDatabaseWrapper, requirements: Sequence[Requirement]) -> Iterator[str]:
    """Yield the sentence of each requirement that the server does not meet."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, current_setting(name) FROM unnest(%s) AS name",
            [[requirement.name for requirement in requirements]],
        )
        values = dict(cursor.fetchall())
    for requirement in requirements:
        if refusal := requirement.refusal(values[requirement.name]):
            yield refusal
