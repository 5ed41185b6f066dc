"""Gives each test the marks of pytest.ini, by the fixtures that it asks for."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("all", deadline=None)  # a busy machine misses any deadline
settings.register_profile("few", settings.get_profile("all"), max_examples=10)  # `make check`
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
WAITING = {"live", "browser", "cluster"}
PROCESS = os.environ.get("PYTEST_XDIST_WORKER")


def measurement(config: pytest.Config) -> Any:
    """Return pytest-cov's control of what this process measures, or None."""
    return getattr(config.pluginmanager.getplugin("_cov"), "cov_controller", None)


def imports_unmeasured(config: pytest.Config) -> bool:
    """Tell whether another process of xdist measures what all of them import."""
    return measurement(config) is not None and PROCESS not in {None, "gw0"}


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Iterator[None]:
    """Let one measurement run in a process of xdist, so that tests marked no_cover run without.

    There pytest-cov begins one as it is loaded and another before the tests, pauses the second for
    such a test, and coverage goes on with the first.
    """
    if PROCESS and (first := measurement(session.config)):
        first.pause()
    yield
    if imports_unmeasured(session.config):
        measurement(session.config).pause()


@pytest.fixture(autouse=True)
def _no_cover_of_fixtures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the fixtures of a test marked no_cover unmeasured too; pytest-cov leaves the test."""
    measured = measurement(request.config)
    if not measured or not request.node.get_closest_marker("no_cover"):
        yield
        return
    if {"db", "transactional_db"}.intersection(request.fixturenames):
        request.getfixturevalue("django_db_setup")  # which others share
    measured.pause()
    yield
    if not measured.started:
        measured.resume()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the garbage collector pass over the collected tests, which live until the end.

    It need not look after every 700 new objects either, which takes 1 to 2 % of the time.
    """
    gc.freeze()
    gc.set_threshold(20_000)
    if imports_unmeasured(session.config):
        measurement(session.config).resume()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark and order the tests, and leave out the long ones unless SOAK is set."""
    on_postgresql = os.environ["DATABASE_URL"].startswith("postgres")
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKS:
                item.add_marker(MARKS[fixture])
        if item.get_closest_marker("django_db"):
            item.add_marker("database")
        # Measuring doubles the time of a test. These reach no code that others on SQLite do not.
        if item.get_closest_marker("browser") or (
            on_postgresql and not item.get_closest_marker("measured")
        ):
            item.add_marker("no_cover")
    if not os.environ.get("SOAK"):
        long = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    # `make test` runs both databases at once: on SQLite files whose tests wait for processes go
    # first, on PostgreSQL last, so that some compute while others wait. Large ones go before small
    # ones, so that the end is even.
    tests = Counter(item.path for item in items)
    waiting = {item.path for item in items if WAITING & {mark.name for mark in item.iter_markers()}}
    items.sort(
        key=lambda item: ((item.path in waiting) == on_postgresql, -tests[item.path], item.path)
    )
