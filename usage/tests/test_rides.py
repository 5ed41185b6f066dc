"""Callers that come while another is at work share the next turn, and each gets its own answer."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore, Event
from typing import Any

import pytest
from django.db import IntegrityError

from usage.database.transactions import DatabaseUnavailable, GateBusy, Repeat
from usage.ledger import record as recording
from usage.ledger.facts import Recorded
from usage.ledger.group_commit import Rides, _Seat, turn
from usage.ledger.statements import FoldOverflow, Statements
from usage.models import ApiKey, Customer, UsageRecord
from usage.tests.books import Books
from usage.tests.factories import FactFactory
from usage.tests.live import PATIENCE_SECONDS

Ride = list[str]


class Road:
    """Where rides go: the first one waits until it is let go; later ones do what `then` does."""

    def __init__(self) -> None:
        self.rides: list[Ride] = []
        self.left, self.open = Event(), Event()
        self.then: Callable[[Ride], Sequence[str] | None] = lambda ride: [f"{x}!" for x in ride]

    def drive(self, loads: Sequence[str]) -> Sequence[str] | None:
        self.rides.append(list(loads))
        if len(self.rides) > 1:
            return self.then(list(loads))
        self.left.set()
        assert self.open.wait(PATIENCE_SECONDS)
        return [f"{load}!" for load in loads]


@pytest.fixture
def road() -> Road:
    return Road()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def waiting(road: Road, pool: ThreadPoolExecutor) -> Callable[..., list[Future[Any]]]:
    """Start callers of which the first is at work and the others wait, in their order."""

    def start(rides: Rides[str, str], *loads: str) -> list[Future[Any]]:
        first, *others = loads
        callers = [pool.submit(rides.take, first)]
        assert road.left.wait(PATIENCE_SECONDS)
        for number, load in enumerate(others, start=1):
            callers.append(pool.submit(rides.take, load))
            until(lambda: len(rides._waiting) == number)  # noqa: B023 - called at once
        return callers

    return start


def until(happened: Callable[[], bool]) -> None:
    for _ in range(10_000_000):
        if happened():
            return
    raise AssertionError("It did not happen.")


def results(callers: list[Future[Any]]) -> list[Any]:
    return [caller.result(PATIENCE_SECONDS) for caller in callers]


def test_who_comes_alone_goes_at_once(road: Road) -> None:
    road.open.set()

    assert Rides(road.drive, patience=PATIENCE_SECONDS).take("a") == "a!"


def test_those_that_wait_ride_together_and_each_gets_its_own(road: Road, waiting: Any) -> None:
    rides = Rides(road.drive, patience=PATIENCE_SECONDS)
    callers = waiting(rides, "a", "b", "c", "d")
    road.open.set()

    assert results(callers) == ["a!", "b!", "c!", "d!"]
    assert road.rides == [["a"], ["b", "c", "d"]]


def test_one_of_them_drives_at_a_time(road: Road, waiting: Any) -> None:
    rides = Rides(road.drive, patience=PATIENCE_SECONDS)
    road.then = lambda ride: [str(rides._is_driven)] * len(ride)
    callers = waiting(rides, "a", "b", "c")
    road.open.set()

    assert results(callers) == ["a!", "True", "True"]


def test_a_ride_that_does_not_arrive_sends_all_of_it_alone(road: Road, waiting: Any) -> None:
    rides = Rides(road.drive, patience=PATIENCE_SECONDS)
    road.then = lambda ride: None
    callers = waiting(rides, "a", "b", "c")
    road.open.set()

    assert results(callers) == ["a!", None, None]


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_an_error_is_its_drivers_and_strands_nobody(
    error: type[BaseException], road: Road, waiting: Any
) -> None:
    rides = Rides(road.drive, patience=PATIENCE_SECONDS)

    def crash(ride: Ride) -> list[str]:
        raise error

    road.then = crash
    driver, passenger = waiting(rides, "a", "b", "c")[1:]
    road.open.set()

    assert passenger.result(PATIENCE_SECONDS) is None
    assert isinstance(driver.exception(PATIENCE_SECONDS), error)
    road.then = lambda ride: ["again"]
    assert rides.take("d") == "again"


def test_who_is_not_called_in_time_goes_alone(road: Road, waiting: Any) -> None:
    rides = Rides(road.drive, patience=PATIENCE_SECONDS)
    (first,) = waiting(rides, "a")
    rides._patience = 0.0

    assert rides.take("b") is None
    road.open.set()
    assert first.result(PATIENCE_SECONDS) == "a!"
    assert rides.take("c") == "c!"  # nobody waits for it, or drives
    assert road.rides == [["a"], ["c"]]


def test_who_is_on_its_way_stays_however_long_that_takes(pool: ThreadPoolExecutor) -> None:
    seat: _Seat[str, str] = _Seat("taken aboard")
    waits = pool.submit(
        Rides[str, str](lambda loads: loads, patience=0.0)._is_called_to_drive, seat
    )
    with pytest.raises(TimeoutError):
        waits.result(0.05)

    seat.called.release()

    assert waits.result(PATIENCE_SECONDS) is False


def test_a_ride_waits_for_as_many_as_were_there_a_moment_ago(
    road: Road, pool: ThreadPoolExecutor, waiting: Any
) -> None:
    rides = Rides(road.drive, patience=PATIENCE_SECONDS, stop=PATIENCE_SECONDS)
    callers = waiting(rides, "a", "b", "c")
    road.open.set()
    assert callers[0].result(PATIENCE_SECONDS) == "a!"

    assert rides.take("d") == "d!"

    assert results(callers) == ["a!", "b!", "c!"]
    assert road.rides == [["a"], ["b", "c", "d"]]


def test_who_has_not_come_in_time_is_not_waited_for_again(road: Road, waiting: Any) -> None:
    rides = Rides(road.drive, patience=PATIENCE_SECONDS, stop=0.001)
    callers = waiting(rides, "a", "b", "c")
    road.open.set()
    results(callers)
    assert rides._expected == 2  # not a, for which that ride waited

    rides.take("d")

    assert rides._expected == 1


def test_nobody_gets_what_is_anothers_or_is_left_behind_whatever_becomes_of_the_rides(
    pool: ThreadPoolExecutor,
) -> None:
    dice = random.Random(1)

    def drive(loads: Sequence[int]) -> list[int] | None:
        fate = dice.random()
        if fate < 0.2:
            raise ZeroDivisionError
        return None if fate < 0.4 else [-load for load in loads]

    rides = Rides(drive, patience=0.0005)

    def call(caller: int) -> list[int | None]:
        results = []
        for load in range(caller * 1000, caller * 1000 + 500):
            with contextlib.suppress(ZeroDivisionError):
                results.append(rides.take(load))
                assert results[-1] in (-load, None)
        return results

    answered = [result for results in pool.map(call, range(1, 5)) for result in results]

    assert answered.count(None) < len(answered) < 4 * 500
    assert (rides._waiting, rides._is_driven) == ([], False)


# What rides record


@pytest.fixture
def calls(customer: Customer) -> list[Any]:
    """Two callers, with two facts and one."""
    keys = [ApiKey.objects.issue(name=name)[0].pk for name in ("cdn", "dns")]
    facts = [FactFactory.build(request_id=name) for name in ("a", "b", "c")]
    return [recording.Call(facts[:2], keys[0]), recording.Call(facts[2:], keys[1])]


@pytest.mark.django_db
def test_each_caller_gets_its_own_records_which_remember_its_own_key(calls: list[Any]) -> None:
    outcomes = recording._ride(calls)

    assert outcomes is not None
    ids = [[outcome.record.request_id for outcome in own] for own in outcomes]  # type: ignore[union-attr]  # Recorded
    assert ids == [["a", "b"], ["c"]]
    kept = dict(UsageRecord.objects.values_list("request_id", "reported_by"))
    assert kept == {fact.request_id: call.reported_by_id for call in calls for fact in call.facts}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "obstacle",
    [
        DatabaseUnavailable("It is locked."),
        IntegrityError("A rule is broken."),
        FoldOverflow(),
        GateBusy(),
        Repeat(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_in_the_way_of_a_ride_they_go_alone(
    obstacle: Exception, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fold(sql: Statements, folds: Any) -> None:
        raise obstacle

    monkeypatch.setattr(Statements, "fold", fold)

    assert recording._ride(calls) is None
    assert not UsageRecord.objects.exists()


def test_a_ride_does_not_wait_for_a_close(
    own_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own_books.is_sqlite:
        pytest.skip("On SQLite a close is a transaction like any other.")
    calls = [recording.Call([FactFactory.build(customer_id=id_)], None) for id_ in (1, 2)]
    tried: list[BaseException] = []

    def attempt(calls: Any, **options: Any) -> list[Any]:
        try:
            return run(calls, **options)
        except BaseException as error:
            tried.append(error)
            raise

    run = recording.attempt
    monkeypatch.setattr(recording, "attempt", attempt)
    with contextlib.closing(own_books.connect()) as closer:
        cursor = closer.cursor()
        cursor.execute("BEGIN")
        cursor.execute("SELECT pg_advisory_xact_lock(45329, 2)")

        assert recording._ride(calls) is None

    assert [type(error) for error in tried] == [GateBusy]


@pytest.mark.django_db
def test_a_large_batch_whose_turn_does_not_come_is_recorded_without_one(
    monkeypatch: pytest.MonkeyPatch, customer: Customer
) -> None:
    monkeypatch.setattr(recording, "_large", BoundedSemaphore(1))
    monkeypatch.setattr(recording, "_LARGE_PATIENCE", 0)
    facts = FactFactory.build_batch(21, customer_id=customer.pk)

    with recording._large:
        outcomes = recording.record(facts, reported_by_id=None)

    assert all(isinstance(outcome, Recorded) for outcome in outcomes)


def test_turns_are_given_back_and_who_gets_none_in_time_goes_without() -> None:
    turns = BoundedSemaphore(1)

    with turn(turns, patience=0.0), turn(turns, patience=0.0):
        assert not turns.acquire(blocking=False)

    assert turns.acquire(blocking=False)
    assert not turns.acquire(blocking=False)
