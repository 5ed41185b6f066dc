"""A server that lives and does not answer: requests give up, threads stay free, nothing is lost.

The synchronous standby of most tests does not exist, so every commit waits as long as the test
wants: as with a frozen standby or a slow disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection
from pytest_django.plugin import DjangoDbBlocker

from usage.database import deadline
from usage.database.deadline import CircuitOpen, DatabaseUnavailable, Limit, circuit
from usage.database.postgresql import waiting
from usage.ledger.close import close
from usage.ledger.record import record
from usage.ledger.void import VoidRefused, void
from usage.models import Bill, Customer, UsageRecord
from usage.tests.books import Books, assert_books_balance, default_database, verify_bills
from usage.tests.cluster import PATIENCE_SECONDS, Cluster, cluster, wait_until
from usage.tests.factories import FactFactory, usage_body
from usage.tests.live import Answer, Caller, Service

pytestmark = [pytest.mark.cluster, pytest.mark.measured]
SOON = 0.3  # seconds
THREADS = 4


@pytest.fixture(scope="module")
def servers(cluster_to_copy: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Cluster]:
    with cluster(cluster_to_copy) as servers, django_db_blocker.unblock():
        servers.books = servers.filled()
        with default_database(servers.books.url):
            recorded("first")  # which keeps the time zone: later ones would wait for its row
        yield servers


@pytest.fixture
def books(servers: Cluster, django_db_blocker: DjangoDbBlocker) -> Iterator[Books]:
    """Books on that server, which is this process's database too."""
    waiting.install()
    with django_db_blocker.unblock(), default_database(servers.books.url):
        yield servers.books
        servers.release_commits()
        circuit.reset()
        assert_books_balance(servers.books)
        verify_bills(servers.books)


def recorded(request_id: str, customer_id: int = 1) -> Any:
    fact = FactFactory.build(request_id=request_id, customer_id=customer_id)
    (outcome,) = record([fact], reported_by_id=None)
    return outcome


def left_waiting(servers: Cluster, act: Callable[[], object]) -> None:
    """Do it with a commit that is visible although the standby does not have it."""
    servers.hold_commits()
    assert_given_up(servers, act)
    servers.end_waiting_commits()


def assert_given_up(servers: Cluster, act: Callable[[], object]) -> None:
    """Act until the commit waits for the standby; then the request's time is over."""
    limits: list[Limit] = []

    def acting() -> None:
        try:
            with circuit.attempt(PATIENCE_SECONDS):
                limit = deadline.current()
                assert limit
                limits.append(limit)
                act()
        finally:
            connection.close()  # this thread's own

    before = servers.waiting_pids()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(acting)
        wait_until(lambda: call.done() or servers.waiting_pids() - before)
        limits[0].end()
        with pytest.raises(DatabaseUnavailable):
            call.result(PATIENCE_SECONDS)


def test_a_commit_that_does_not_end_is_given_up_and_not_cancelled(
    servers: Cluster, books: Books
) -> None:
    servers.hold_commits()

    assert_given_up(servers, lambda: recorded("given-up"))

    assert servers.waiting_commits() == 1
    servers.release_commits()
    with circuit.attempt():
        assert recorded("given-up").replayed


def test_a_request_whose_time_is_over_opens_no_connection(servers: Cluster, books: Books) -> None:
    connection.close()

    with deadline.within(0), pytest.raises(OperationalError, match="no time left"):
        Bill.objects.exists()

    assert connection.connection is None


def test_a_replay_is_answered_when_its_record_is_on_the_standby(
    servers: Cluster, books: Books
) -> None:
    left_waiting(servers, lambda: recorded("replayed"))

    assert_given_up(servers, lambda: recorded("replayed"))

    assert books.rows("SELECT 1 FROM usage_usagerecord WHERE request_id = 'replayed'")
    servers.release_commits()
    with circuit.attempt():
        assert recorded("replayed").replayed


def test_a_conflict_is_answered_when_its_record_is_on_the_standby(
    servers: Cluster, books: Books
) -> None:
    left_waiting(servers, lambda: recorded("in-conflict"))

    assert_given_up(servers, lambda: recorded("in-conflict", customer_id=2))


def test_closed_already_is_said_when_the_close_is_on_the_standby(
    servers: Cluster, books: Books
) -> None:
    recorded("to-close", customer_id=3)
    bill = Bill.objects.get(customer=3)
    left_waiting(servers, lambda: close(bill, by="Sam"))

    assert_given_up(servers, lambda: close(bill, by="Sam"))

    servers.release_commits()
    with circuit.attempt():
        assert close(bill, by="Sam") is False


def test_voided_already_is_said_when_the_void_is_on_the_standby(
    servers: Cluster, books: Books
) -> None:
    recorded("to-void")
    row = UsageRecord.objects.get(pk="to-void")
    left_waiting(servers, lambda: void(row, reason="wrong", by="Sam"))

    assert_given_up(servers, lambda: void(row, reason="wrong", by="Sam"))

    servers.release_commits()
    with circuit.attempt(), pytest.raises(VoidRefused, match="voided already"):
        void(row, reason="wrong", by="Sam")


def test_an_open_circuit_lets_one_request_at_a_time_try(servers: Cluster, books: Books) -> None:
    servers.hold_commits()
    assert_given_up(servers, lambda: recorded("trial"))

    with circuit.attempt(), ThreadPoolExecutor(1) as pool:
        second = pool.submit(tried)
        with pytest.raises(CircuitOpen):
            second.result(PATIENCE_SECONDS)


def tried() -> None:
    with circuit.attempt():
        raise AssertionError("A second request was let in.")


def test_only_a_commit_closes_the_circuit_that_a_commit_has_opened(
    servers: Cluster, books: Books
) -> None:
    servers.hold_commits()
    assert_given_up(servers, lambda: recorded("hung"))

    with circuit.attempt():
        assert Bill.objects.exists()
    assert circuit.is_open

    servers.release_commits()
    with circuit.attempt():
        recorded("hung")
    assert not circuit.is_open


def test_server_processes_that_were_left_waiting_are_ended_by_the_next_connection(
    servers: Cluster, books: Books
) -> None:
    servers.hold_commits()

    for number in range(3):
        assert_given_up(servers, partial(recorded, f"left-{number}", customer_id=4 + number))

    assert servers.waiting_commits() == 1


@contextlib.contextmanager
def served(books: Books, monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> Iterator[Service]:
    monkeypatch.setenv("HASTY_SECONDS", str(seconds))
    with Service(
        books, workers=1, threads=THREADS, application="usage.tests.hasty", preload=False
    ) as service:
        yield service


def answered(caller: Caller, body: Any) -> Answer:
    """Post until it is recorded: on a busy machine that may take longer than a request has."""
    answers = iter(lambda: caller.post(body), None)
    return next(answer for answer in answers if answer.status in {200, 201})


def test_threads_stay_free_while_commits_hang(
    servers: Cluster, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request's time ends here: only the circuit can answer one."""
    with (
        served(books, monkeypatch, seconds=10 * PATIENCE_SECONDS) as service,
        ThreadPoolExecutor(2 * THREADS) as pool,
    ):
        bodies = [usage_body(customer_id=10 + number) for number in range(2 * THREADS)]
        callers = service.callers(len(bodies))
        servers.hold_commits()
        calls = [
            pool.submit(caller.post, body) for caller, body in zip(callers, bodies, strict=True)
        ]

        answered = as_completed(calls, PATIENCE_SECONDS)
        refused = [next(answered).result().status for _ in range(len(bodies) - THREADS // 2)]
        alive = service.caller().get("/livez").status
        ready = service.caller().ready()
        late = service.caller().post(bodies[0]).status

        assert set(refused) == {503}
        assert (alive, ready.status, late) == (200, 503, 503)
        assert "has not answered" in ready.json["missing"][0]
        servers.release_commits()
        assert {call.result(PATIENCE_SECONDS).status for call in calls} <= {201, 503}
        wait_until(lambda: service.caller().ready().status == 200)
        assert {caller.post(body).status for caller, body in zip(callers, bodies, strict=True)} <= {
            200,
            201,
        }


def test_a_server_left_waiting_has_a_process_for_each_thread_and_one_more(
    servers: Cluster, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(books, monkeypatch, seconds=SOON) as service:
        callers = service.callers(2 * THREADS)
        servers.hold_commits()
        for _ in range(3):
            with ThreadPoolExecutor(len(callers)) as pool:
                bodies = [usage_body(customer_id=30 + n) for n in range(len(callers))]
                answers = list(pool.map(lambda caller, body: caller.post(body), callers, bodies))
            assert {answer.status for answer in answers} == {503}

        own = "datname = 'books' AND pid <> pg_backend_pid()"
        assert servers.primary.value(f"SELECT count(*) FROM pg_stat_activity WHERE {own}") <= (
            THREADS + 1 + 1  # this process's own
        )


def test_a_frozen_server_is_given_up_and_comes_back(
    servers: Cluster, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(books, monkeypatch, seconds=1) as service:
        caller = service.caller()
        body = usage_body(customer_id=50)
        first = answered(caller, body)
        servers.primary.freeze()
        try:
            frozen = [caller.post(body).status, service.caller().get("/livez").status]
            frozen.append(service.caller().ready().status)
        finally:
            servers.primary.thaw()

        wait_until(lambda: service.caller().ready().status == 200)
        assert frozen == [503, 200, 503]
        assert answered(caller, body).body == first.body


def test_an_export_is_given_up_when_the_server_is_silent(
    servers: Cluster, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "SILENCE_SECONDS", SOON)
    assert Customer.objects.exists()  # it is connected
    servers.primary.freeze()
    try:
        with deadline.patient(), pytest.raises(OperationalError, match="did not answer in time"):
            Customer.objects.exists()
    finally:
        servers.primary.thaw()


def test_an_export_may_take_longer_than_a_request(servers: Cluster, books: Books) -> None:
    with deadline.within(SOON), deadline.patient(), connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_sleep({2 * SOON})")

        assert not circuit.is_open
