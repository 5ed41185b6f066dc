"""Registers the application with Django."""

from django.apps import AppConfig


class UsageConfig(AppConfig):
    """Customers, their bills and the usage recorded on them."""

    name = "usage"
