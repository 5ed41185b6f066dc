"""Restores the triggers by which the database refuses changes of fixed rows."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection, transaction

from usage.database import triggers
from usage.database.transactions import lift_statement_timeout
from usage.management.books import refuse_unmigrated


class Command(BaseCommand):
    """Installs the guards that are missing, switched off or changed, in one transaction."""

    help = "Puts right the database's guards, for when /readyz says that some do not hold."

    requires_migrations_checks = True

    def check_migrations(self) -> None:
        """Raise CommandError instead of Django's notice: a table that is missing has no guards."""
        refuse_unmigrated()

    def handle(self, **options: Any) -> None:
        with transaction.atomic():
            lift_statement_timeout()
            mended = triggers.install(connection)
            remaining = triggers.faults(connection)
        for name in sorted(mended.keys() - remaining.keys()):
            self.stdout.write(f"Mended {name}, which was {mended[name]}.")
        if remaining:
            raise CommandError(
                f"This command cannot mend that {triggers.described(remaining)}: change the"
                " setting of the database, the role or the server."
            )
        if not mended:
            self.stdout.write("Every guard holds; nothing was changed.")
