"""Gives each test the marks of pytest.ini, by the fixtures that it asks for."""

from __future__ import annotations

import gc
import os

import pytest
from django.db import connection
from hypothesis import settings

settings.register_profile("all", deadline=None)  # a busy machine misses any deadline
settings.register_profile("few", settings.get_profile("all"), max_examples=15)  # `make check`
settings.load_profile("all")

MARKS = {
    "live_service": "live",
    "scraped": "live",
    "installed": "live",
    "browser": "browser",
    "cluster": "cluster",
    "db": "database",
    "transactional_db": "database",
    "books_to_copy": "database",
}


# The lines that PostgreSQL alone runs lie below the pages and the endpoint. What comes in by them
# runs on both and is measured on SQLite alone: coverage nearly doubles the time of a test.
DOORS = {"admin_client", "post"}


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what was collected: it lives until the end anyway."""
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests, and leave out the long ones unless SOAK is set."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for fixture in fixtures:
            if fixture in MARKS:
                item.add_marker(MARKS[fixture])
        if connection.vendor == "postgresql" and DOORS.intersection(fixtures):
            item.add_marker("no_cover")
        if item.get_closest_marker("django_db"):
            item.add_marker("database")
    if not os.environ.get("SOAK"):
        long = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
