"""Names: one Unicode normal form in every column, and a search without case on both engines."""

from __future__ import annotations

import unicodedata
from functools import partial
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import lookups

# A text in Unicode's NFC, the form in which names and services are stored.
normal = partial(unicodedata.normalize, "NFC")


class NameField(models.CharField):  # type: ignore[type-arg]  # generic only in the stubs
    """Text that is stored, and compared, in NFC, whichever form it comes in."""

    def to_python(self, value: Any) -> Any:
        value = super().to_python(value)
        return normal(value) if isinstance(value, str) else value


class _WithoutCase:
    """A comparison of names in any normal form and any case.

    SQLite's own LIKE knows the case of ASCII letters alone. PostgreSQL knows that of the letters
    of the database's locale.
    """

    sqlite_template: str

    def get_prep_lookup(self) -> Any:
        text = super().get_prep_lookup()  # type: ignore[misc]  # of the lookup
        return normal(text) if isinstance(text, str) else text

    def as_sqlite(self, compiler: Any, connection: BaseDatabaseWrapper) -> tuple[str, list[Any]]:
        name, params = self.process_lhs(compiler, connection)  # type: ignore[attr-defined]  # likewise
        return self.sqlite_template.format(name), [*params, self.rhs]  # type: ignore[attr-defined]  # likewise


@NameField.register_lookup
class NameContains(_WithoutCase, lookups.IContains):
    """Finds a part of a name."""

    sqlite_template = "instr(casefold({}), casefold(%s)) > 0"


@NameField.register_lookup
class NameIs(_WithoutCase, lookups.IExact):  # type: ignore[type-arg]  # generic only in the stubs
    """Finds a whole name."""

    sqlite_template = "casefold({}) = casefold(%s)"


def casefold(text: str | None) -> str | None:
    """Return a text without its case; a function of SQL on SQLite."""
    return None if text is None else text.casefold()
