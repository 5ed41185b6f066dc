"""Makes an API key for a team or service."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db import transaction

from usage.management.books import BooksCommand
from usage.models import ApiKey


class Command(BooksCommand):
    """Prints the key alone on standard output, so that a script can keep it."""

    help = "Makes an API key. Several may live under one name, so that keys can be rotated."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="the team or service that will hold the key")
        parser.add_argument("--owner", default="", help="who answers for the key")
        parser.add_argument("--contact", default="", help="how to reach the owner")

    def handle(self, *, name: str, owner: str, contact: str, **options: Any) -> None:
        try:
            with transaction.atomic():  # a key that cannot be printed is not made
                api_key, key = ApiKey.objects.issue(
                    name=name.strip(),
                    owner=owner.strip(),
                    contact=contact.strip(),
                    by="create_api_key",
                )
                self.stderr.write(
                    f"The key of {api_key}: it is kept nowhere and not shown again; staff can"
                    " revoke it in the admin."
                )
                self.stdout.write(key)
                self.stdout.flush()
        except ValidationError as error:
            problems = " ".join(
                f"{field}: {' '.join(messages)}" for field, messages in error.message_dict.items()
            )
            raise CommandError(f"No key was made. {problems}") from error
