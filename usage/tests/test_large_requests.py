"""Two large requests record at a time in a process, and one while small ones come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from usage.ledger import record as recording
from usage.ledger.facts import Recorded
from usage.ledger.group_commit import LargeRequests
from usage.models import Customer
from usage.tests.factories import FactFactory


class Clock:
    """Seconds, as a test sets them."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def large_requests(clock: Clock) -> LargeRequests:
    """Nobody waits for a place."""
    large_requests = LargeRequests(patience=0)
    large_requests.clock = clock
    return large_requests


def places(large_requests: LargeRequests) -> list[bool]:
    """Which of three large requests at once have a place."""
    with ExitStack() as held:
        return [held.enter_context(large_requests.place()) for _ in range(3)]


def test_two_have_a_place(large_requests: LargeRequests) -> None:
    assert places(large_requests) == [True, True, False]


def test_one_has_a_place_while_small_requests_come(
    large_requests: LargeRequests, clock: Clock
) -> None:
    large_requests.small_came()
    clock.now += 0.9

    assert places(large_requests) == [True, False, False]


def test_a_second_after_the_last_small_request_two_have_a_place_again(
    large_requests: LargeRequests, clock: Clock
) -> None:
    large_requests.small_came()
    clock.now += 1

    assert places(large_requests) == [True, True, False]


def test_each_gives_its_own_place_back(large_requests: LargeRequests, clock: Clock) -> None:
    with large_requests.place():
        large_requests.small_came()
        assert places(large_requests) == [True, False, False]
        assert places(large_requests) == [True, False, False]
    clock.now += 1

    assert places(large_requests) == [True, True, False]


@pytest.mark.django_db
@pytest.mark.parametrize("size", [1, recording._SMALL])
def test_a_small_request_leaves_large_ones_one_place(
    large_requests: LargeRequests,
    monkeypatch: pytest.MonkeyPatch,
    customer: Customer,
    size: int,
) -> None:
    monkeypatch.setattr(recording, "_large_requests", large_requests)
    facts = FactFactory.build_batch(size, customer_id=customer.pk)

    recording.record(facts, reported_by_id=None)

    assert places(large_requests) == [True, False, False]


@pytest.mark.django_db
def test_a_large_request_without_a_place_is_recorded_in_the_end(
    large_requests: LargeRequests, monkeypatch: pytest.MonkeyPatch, customer: Customer
) -> None:
    monkeypatch.setattr(recording, "_large_requests", large_requests)
    facts = FactFactory.build_batch(recording._HUNDRED + 1, customer_id=customer.pk)

    with large_requests.place(), large_requests.place():
        outcomes = recording.record(facts, reported_by_id=None)

    assert all(isinstance(outcome, Recorded) for outcome in outcomes)


@pytest.mark.django_db
def test_the_wait_for_a_place_takes_no_time_from_the_transaction(
    monkeypatch: pytest.MonkeyPatch, customer: Customer
) -> None:
    waited, monotonic = 0.0, time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + waited)

    @contextmanager
    def wait_for_place() -> Iterator[bool]:
        nonlocal waited
        waited = recording._large_requests.patience + 0.5
        yield False

    monkeypatch.setattr(recording._large_requests, "place", wait_for_place)
    facts = FactFactory.build_batch(recording._HUNDRED + 1, customer_id=customer.pk)

    outcomes = recording.record(facts, reported_by_id=None)

    assert all(isinstance(outcome, Recorded) for outcome in outcomes)
