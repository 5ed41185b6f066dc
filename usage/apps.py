"""Registers the application with Django."""

from django.apps import AppConfig
from django.core.checks import Tags, register


class UsageConfig(AppConfig):
    """Customers, their bills and the usage recorded on them."""

    name = "usage"

    def ready(self) -> None:
        """Register the checks, which need the models."""
        from usage.checks import books  # noqa: PLC0415 - models cannot be imported before

        register(books, Tags.database)
