"""What bills, usage records and daily usage share: they are written once, by the write path."""

from __future__ import annotations

from functools import cache
from typing import Any, Self, TypeVar, cast

from django.core.management import get_commands
from django.db import models


class Frozen(Exception):
    """The call would change a row that never changes; nothing was changed."""


class ActorRefused(Exception):
    """A user has the name of a command, whose acts the history could not tell apart."""


def actor_of(by: object) -> str:
    """Return the name that the history keeps of a user or a command.

    Raises ActorRefused if a user is named like one of the commands.
    """
    name = str(by)
    if hasattr(by, "get_username") and name.casefold() in get_commands():
        raise ActorRefused(f"{name} is the name of a command: act as a user of another name.")
    return name


class InsertMissing(models.Model):
    """A row that `loaddata` inserts when it is missing and never touches when it exists."""

    class Meta:
        abstract = True

    # loaddata calls Model.save_base unbound, so this is the first method it can be met in.
    def _save_table(self, raw: bool, *args: Any, **kwargs: Any) -> Any:  # noqa: FBT001 - Django's
        if raw and type(self)._base_manager.filter(pk=self.pk).exists():
            return True
        return super()._save_table(raw, *args, **kwargs)  # type: ignore[misc]  # not in the stubs


Row = TypeVar("Row", bound=models.Model)


@cache
def _readable(model: type[models.Model]) -> models.Q:
    checks = (check for check in model._meta.constraints if "_readable" in check.name)
    return models.Q(cast("models.CheckConstraint", next(checks)).condition)


class FrozenQuerySet(models.QuerySet[Row]):
    """Rows that can be read and added but neither changed nor deleted."""

    def readable(self) -> Self:
        """Return the rows that hold their table's check of what Python can read.

        All do, unless they were there before the check, or the check was dropped.
        """
        return self.filter(_readable(self.model))

    def unreadable(self) -> Self:
        """Return the other rows, of which no more than the key may be asked for."""
        return self.filter(~_readable(self.model))

    def update(self, **kwargs: Any) -> int:
        raise Frozen(f"{self._plural()} never change; nothing was updated.")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise Frozen(f"{self._plural()} are never deleted; nothing was.")

    def _plural(self) -> str:
        return str(self.model._meta.verbose_name_plural).capitalize()


class FrozenModel(InsertMissing):
    """A row that `save()` only inserts."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert the row; raises Frozen if it came from the database."""
        if not self._state.adding:
            raise Frozen(f"{self} is stored and never changes; nothing was saved.")
        kwargs["force_insert"] = True
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise Frozen(f"{self} is never deleted; nothing was.")
