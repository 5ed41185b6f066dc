"""How long the database may keep work waiting, by a clock that no one can set."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import time_machine

from usage.database import deadline
from usage.database.deadline import circuit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(deadline, "monotonic", clock)
    return clock


def current() -> Any:
    return deadline.current()


def test_outside_of_every_block_there_is_no_limit() -> None:
    assert current() is None


def test_a_limit_ends_after_its_seconds(clock: Clock) -> None:
    with deadline.within(8):
        clock.now += 7.9
        assert not current().is_over
        clock.now += 0.1
        assert current().is_over
    assert current() is None


def test_a_request_has_8_seconds_and_a_probe_2(clock: Clock) -> None:
    with circuit.attempt():
        assert current().ends == clock.now + 8
        with deadline.within(deadline.PROBE_SECONDS):
            assert current().ends == clock.now + 2


def test_an_inner_limit_is_no_longer_than_the_outer(clock: Clock) -> None:
    with deadline.within(2):
        with deadline.within(8):
            assert current().ends == clock.now + 2
        with deadline.within(1):
            assert current().ends == clock.now + 1


def test_a_limit_that_is_ended_ends_those_around_it(clock: Clock) -> None:
    with deadline.within(8):
        with deadline.within(3):
            current().end()
        assert current().is_over


def test_patience_leaves_the_request_as_much_time_as_it_had(clock: Clock) -> None:
    with deadline.within(8):
        with deadline.patient():
            assert current().silence == 8
            clock.now += 3600
            assert not current().is_over
        assert current().ends == clock.now + 8


def test_the_wall_clock_ends_no_limit() -> None:
    with time_machine.travel(dt.datetime(2026, 11, 1, tzinfo=dt.UTC)) as wall, deadline.within(8):
        wall.shift(dt.timedelta(days=1))

        assert not current().is_over
