"""Group commit: requests that arrive during a transaction share the next one."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock
from typing import Any

import pytest
from django.db import IntegrityError, connection

from usage.database.transactions import DatabaseUnavailable, Repeat
from usage.ledger import group_commit
from usage.ledger import record as recording
from usage.ledger.facts import CloseLockBusy, DailyUsageOverflow
from usage.ledger.group_commit import GroupCommit
from usage.ledger.statements import STATEMENTS
from usage.models import ApiKey, Customer, UsageRecord
from usage.tests.books import Books
from usage.tests.factories import FactFactory
from usage.tests.live import PATIENCE_SECONDS

pytestmark = pytest.mark.measured

Group = list[str]


class Runner:
    """Runs groups: the first waits until it may end, later ones return what `then` returns."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.started, self.may_end = Event(), Event()
        self.then: Callable[[Group], Sequence[str] | None] = lambda group: [f"{x}!" for x in group]

    def run(self, requests: Sequence[str]) -> Sequence[str] | None:
        self.groups.append(list(requests))
        if len(self.groups) > 1:
            return self.then(list(requests))
        self.started.set()
        assert self.may_end.wait(PATIENCE_SECONDS)
        return [f"{request}!" for request in requests]


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def waiting(runner: Runner, pool: ThreadPoolExecutor) -> Callable[..., list[Future[Any]]]:
    """Submit requests of which the first runs and the others wait, in their order."""

    def start(commit: GroupCommit[str, str], *requests: str) -> list[Future[Any]]:
        first, *others = requests
        callers = [pool.submit(commit.submit, first)]
        assert runner.started.wait(PATIENCE_SECONDS)
        for number, request in enumerate(others, start=1):
            callers.append(pool.submit(commit.submit, request))
            until(lambda: len(commit._waiting) == number)  # noqa: B023 - called at once
        return callers

    return start


def until(happened: Callable[[], bool]) -> None:
    for _ in range(10_000_000):
        if happened():
            return
    raise AssertionError("It did not happen.")


def results(callers: list[Future[Any]]) -> list[Any]:
    return [caller.result(PATIENCE_SECONDS) for caller in callers]


def test_a_single_request_runs_at_once(runner: Runner) -> None:
    runner.may_end.set()

    assert GroupCommit(runner.run, patience=PATIENCE_SECONDS).submit("a") == "a!"


def test_waiting_requests_run_together_and_each_gets_its_own_result(
    runner: Runner, waiting: Any
) -> None:
    commit = GroupCommit(runner.run, patience=PATIENCE_SECONDS)
    callers = waiting(commit, "a", "b", "c", "d")
    runner.may_end.set()

    assert results(callers) == ["a!", "b!", "c!", "d!"]
    assert runner.groups == [["a"], ["b", "c", "d"]]


def test_one_request_leads_at_a_time(runner: Runner, waiting: Any) -> None:
    commit = GroupCommit(runner.run, patience=PATIENCE_SECONDS)
    runner.then = lambda group: [str(commit._has_leader)] * len(group)
    callers = waiting(commit, "a", "b", "c")
    runner.may_end.set()

    assert results(callers) == ["a!", "True", "True"]


def test_a_group_without_results_sends_each_request_alone(runner: Runner, waiting: Any) -> None:
    commit = GroupCommit(runner.run, patience=PATIENCE_SECONDS)
    runner.then = lambda group: None
    callers = waiting(commit, "a", "b", "c")
    runner.may_end.set()

    assert results(callers) == ["a!", None, None]


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_an_error_is_raised_to_the_leader_and_strands_no_other(
    error: type[BaseException], runner: Runner, waiting: Any
) -> None:
    commit = GroupCommit(runner.run, patience=PATIENCE_SECONDS)

    def crash(group: Group) -> list[str]:
        raise error

    runner.then = crash
    leader, follower = waiting(commit, "a", "b", "c")[1:]
    runner.may_end.set()

    assert follower.result(PATIENCE_SECONDS) is None
    assert isinstance(leader.exception(PATIENCE_SECONDS), error)
    runner.then = lambda group: ["again"]
    assert commit.submit("d") == "again"


def test_a_request_that_waits_too_long_runs_alone(runner: Runner, waiting: Any) -> None:
    commit = GroupCommit(runner.run, patience=PATIENCE_SECONDS)
    (first,) = waiting(commit, "a")
    commit._patience = 0.0

    assert commit.submit("b") is None
    runner.may_end.set()
    assert first.result(PATIENCE_SECONDS) == "a!"
    assert commit.submit("c") == "c!"  # it neither waits nor leads
    assert runner.groups == [["a"], ["c"]]


def test_a_request_that_a_leader_has_taken_waits_however_long_that_takes(
    runner: Runner, waiting: Any, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = GroupCommit(runner.run, patience=PATIENCE_SECONDS)
    taken, is_over, may_end = Event(), Event(), Event()

    class Wakeup:
        """A lock whose first wait is over once the leader has taken the request."""

        def __init__(self) -> None:
            self._lock = Lock()
            self.release = self._lock.release

        def acquire(self, timeout: float = -1) -> bool:
            if timeout != PATIENCE_SECONDS:
                return self._lock.acquire(timeout=timeout)
            assert taken.wait(PATIENCE_SECONDS)
            is_over.set()
            return False

    def run_slowly(group: Group) -> list[str]:
        taken.set()
        assert may_end.wait(PATIENCE_SECONDS)
        return [f"{request}!" for request in group]

    runner.then = run_slowly
    callers = waiting(commit, "a", "b")
    monkeypatch.setattr(group_commit, "Lock", Wakeup)
    callers.append(pool.submit(commit.submit, "c"))
    until(lambda: len(commit._waiting) == 2)
    runner.may_end.set()
    assert is_over.wait(PATIENCE_SECONDS)
    with pytest.raises(TimeoutError):
        callers[2].result(0.3)
    may_end.set()

    assert results(callers) == ["a!", "b!", "c!"]


def test_a_leader_lingers_until_as_many_arrived_as_a_moment_ago(
    runner: Runner, pool: ThreadPoolExecutor, waiting: Any
) -> None:
    commit = GroupCommit(runner.run, patience=PATIENCE_SECONDS, linger=PATIENCE_SECONDS)
    callers = waiting(commit, "a", "b", "c")
    runner.may_end.set()
    assert callers[0].result(PATIENCE_SECONDS) == "a!"

    assert commit.submit("d") == "d!"

    assert results(callers) == ["a!", "b!", "c!"]
    assert runner.groups == [["a"], ["b", "c", "d"]]


def test_a_group_has_at_most_so_many_requests_and_the_next_takes_the_others(
    runner: Runner, waiting: Any
) -> None:
    commit = GroupCommit(runner.run, patience=PATIENCE_SECONDS, most=2)
    callers = waiting(commit, "a", "b", "c", "d")
    runner.may_end.set()

    assert results(callers) == ["a!", "b!", "c!", "d!"]
    assert runner.groups == [["a"], ["b", "c"], ["d"]]


def test_a_leader_does_not_linger_for_more_than_its_group_may_have(
    runner: Runner, waiting: Any
) -> None:
    commit = GroupCommit(runner.run, patience=PATIENCE_SECONDS, linger=PATIENCE_SECONDS, most=2)
    callers = waiting(commit, "a", "b", "c")
    runner.then = lambda group: [str(commit._expected)] * len(group)
    runner.may_end.set()

    assert results(callers) == ["a!", "2", "2"]


def test_a_request_that_did_not_arrive_is_not_expected_again(runner: Runner, waiting: Any) -> None:
    commit = GroupCommit(runner.run, patience=PATIENCE_SECONDS, linger=0.001)
    callers = waiting(commit, "a", "b", "c")
    runner.may_end.set()
    results(callers)
    assert commit._expected == 2  # not a, which that group waited for

    commit.submit("d")

    assert commit._expected == 1


def test_each_caller_gets_its_own_result_whatever_becomes_of_the_groups(
    pool: ThreadPoolExecutor,
) -> None:
    dice = random.Random(1)

    def run(requests: Sequence[int]) -> list[int] | None:
        fate = dice.random()
        if fate < 0.2:
            raise ZeroDivisionError
        return None if fate < 0.4 else [-request for request in requests]

    commit = GroupCommit(run, patience=0.0005)

    def call(caller: int) -> list[int | None]:
        results = []
        for load in range(caller * 1000, caller * 1000 + 500):
            with contextlib.suppress(ZeroDivisionError):
                results.append(commit.submit(load))
                assert results[-1] in (-load, None)
        return results

    answered = [result for results in pool.map(call, range(1, 5)) for result in results]

    assert answered.count(None) < len(answered) < 4 * 500
    assert (commit._waiting, commit._has_leader) == ([], False)


# What a group records


@pytest.fixture
def calls(customer: Customer) -> list[Any]:
    """Two callers, with two facts and one."""
    keys = [ApiKey.objects.issue(name=name)[0].pk for name in ("cdn", "dns")]
    facts = [FactFactory.build(request_id=name) for name in ("a", "b", "c")]
    return [recording.Request(facts[:2], keys[0]), recording.Request(facts[2:], keys[1])]


@pytest.mark.django_db
def test_each_record_of_a_group_keeps_the_key_it_came_by(calls: list[Any]) -> None:
    outcomes = recording._record_together(calls)

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
        DailyUsageOverflow(),
        CloseLockBusy(),
        Repeat(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_group_that_meets_an_obstacle_is_recorded_request_by_request(
    obstacle: Exception, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(sql: Any, additions: Any) -> None:
        raise obstacle

    monkeypatch.setattr(STATEMENTS[connection.vendor], "add_to_daily_usage", add)

    assert recording._record_together(calls) is None
    assert not UsageRecord.objects.exists()


def test_a_group_does_not_wait_for_a_close(
    own_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own_books.is_sqlite:
        pytest.skip("On SQLite a close is a transaction like any other.")
    calls = [recording.Request([FactFactory.build(customer_id=id_)], None) for id_ in (1, 2)]
    tried: list[BaseException] = []

    def attempt(calls: Any, **options: Any) -> list[Any]:
        try:
            return run(calls, **options)
        except BaseException as error:
            tried.append(error)
            raise

    run = recording.transact
    monkeypatch.setattr(recording, "transact", attempt)
    with contextlib.closing(own_books.connect()) as closer:
        cursor = closer.cursor()
        cursor.execute("BEGIN")
        cursor.execute("SELECT pg_advisory_xact_lock(45329, 2)")

        assert recording._record_together(calls) is None

    assert [type(error) for error in tried] == [CloseLockBusy]
