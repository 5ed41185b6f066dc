"""Puts back the triggers by which the database refuses to change what is fixed."""

from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection, transaction

from usage.database import triggers
from usage.database.transactions import lift_statement_timeout


class Command(BaseCommand):
    """Renews every guard, in one transaction."""

    help = "Installs the database's guards again, for when /readyz says that some are missing."

    def handle(self, **options: Any) -> None:
        with transaction.atomic():
            lift_statement_timeout()
            missing = sorted(triggers.missing(connection))
            triggers.install(connection)
        self.stdout.write(f"Missing before: {', '.join(missing) or 'none'}; all stand now.")
