"""Makes an API key for a team or service."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from usage.models import ApiKey


class Command(BaseCommand):
    """Prints the key alone on standard output, so that a script can keep it."""

    help = "Makes an API key. Several may live under one name, so that keys can be rotated."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="the team or service that will hold the key")

    def handle(self, *, name: str, **options: Any) -> None:
        try:
            api_key, key = ApiKey.objects.issue(name=name.strip())
        except ValidationError as error:
            raise CommandError(f"{name!r} cannot name a key: {' '.join(error.messages)}") from error
        self.stderr.write(
            f"The key of {api_key}: it is kept nowhere and not shown again; staff can revoke it"
            " in the admin."
        )
        self.stdout.write(key)
