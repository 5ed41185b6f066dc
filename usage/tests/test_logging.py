"""An outage is logged once a minute for each cause, and counted."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from django.db import OperationalError

from billing_project import log
from usage.database.deadline import DatabaseUnavailable
from usage.database.postgresql.waiting import GivenUp


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("billing_project.log.time", clock)
    return clock


@pytest.fixture
def written(clock: Clock) -> Iterator[io.StringIO]:
    """The output of a handler with the service's filter."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(log.OutageFilter())
    root = logging.getLogger("billing_project.log")
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)


def fail(reason: str = "The database did not answer in time.") -> None:
    """Log a 503 as the view and Django do."""
    error = DatabaseUnavailable("Given up.")
    error.__cause__ = OperationalError(reason)
    error.__cause__.__cause__ = GivenUp(reason)
    log.logger.warning("The database is unavailable.", exc_info=error)
    log.logger.error("Service Unavailable: %s", "/api/v1/usage/", extra={"status_code": 503})


def test_a_cause_is_told_once_a_minute_and_then_counted(written: io.StringIO, clock: Clock) -> None:
    for _ in range(1000):
        fail()
    assert written.getvalue().count("DatabaseUnavailable: Given up.") == 1
    assert written.getvalue().count("Service Unavailable") == 0

    clock.now += 60
    fail()

    assert "unavailable 999 more times: GivenUp: The database did not" in written.getvalue()
    assert written.getvalue().count("The database is unavailable.") == 2


def test_the_count_is_told_although_the_outage_is_over(written: io.StringIO, clock: Clock) -> None:
    fail()
    fail()
    clock.now += 60

    log.logger.info("Something else.")

    assert "unavailable 1 more times" in written.getvalue()


def test_each_cause_is_told(written: io.StringIO) -> None:
    fail("The database did not answer in time.")
    fail("connection refused")

    assert written.getvalue().count("The database is unavailable.") == 2


def test_other_errors_are_told_each_time(written: io.StringIO) -> None:
    for _ in range(3):
        log.logger.error("Crash.", exc_info=ValueError("a bug"))

    assert written.getvalue().count("Crash.") == 3
