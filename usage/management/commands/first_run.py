"""Prepares a new service on your own machine, for `make run`."""

import secrets
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from usage.models import ApiKey, Customer


class Command(BaseCommand):
    """Fills an empty database, and tells its secrets once. Existing rows stay."""

    help = "Loads the samples, makes a staff login and an API key and prints both, unless there."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--address", default="http://127.0.0.1:8000", help="where it will serve"
        )

    def handle(self, *, address: str, **options: Any) -> None:
        """Makes all of it or nothing; raises CommandError without DEBUG."""
        if not settings.DEBUG:
            raise CommandError(
                "first_run prints a password, which only a service on your own machine (DEBUG=1) "
                "may do: use createsuperuser and create_api_key instead."
            )
        with transaction.atomic():  # a password that cannot be printed is not made
            if not Customer.objects.exists():
                call_command("loaddata", "sample_data", verbosity=0)
            if not User.objects.filter(is_staff=True).exists():
                password = secrets.token_urlsafe(12)
                User.objects.create_superuser("admin", password=password)
                _, key = ApiKey.objects.issue(name="first run")
                self.stdout.write(
                    f"Staff log in at {address}/admin/ as admin with the password {password}"
                )
                self.stdout.write(f"Services report usage with the API key {key}")
                self.stdout.write("Neither is shown again.")
            self.stdout.write(f"Serving on {address}")
            self.stdout.flush()
