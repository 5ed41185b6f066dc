"""Commands that read or write the books."""

from __future__ import annotations

from django.core.management.base import BaseCommand, CommandError

from usage.database.migrations import unapplied_migrations
from usage.models import BillingTimeZone

NOT_DONE = 2  # the exit status of a command that could not do its work, see manage.py


class BooksCommand(BaseCommand):
    """Begins only if the tables are of this version, and the books in this process's time zone."""

    requires_migrations_checks = True

    def check_migrations(self) -> None:
        """Raise CommandError or OtherTimeZone, which exit with 2, instead of Django's notice."""
        refuse_unmigrated()
        BillingTimeZone.objects.confirm()


def refuse_unmigrated() -> None:
    """Raise CommandError if migrations are not applied; those of a newer version do not count."""
    if names := unapplied_migrations():
        raise CommandError(
            f"Migrations are not applied ({names}): run manage.py migrate.", returncode=NOT_DONE
        )
