"""What one request costs the database, counted where it goes over the wire, in a warm process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from usage.tests.books import Books, assert_books_balance
from usage.tests.factories import usage_body
from usage.tests.live import Service
from usage.tests.wire import Relay

# On PostgreSQL the service runs behind a relay. Other tests measure this code.
pytestmark = [pytest.mark.live, pytest.mark.no_cover]

MOST = 7  # BEGIN and COMMIT included
TRIES = 5
Post = Callable[[Any], list[str]]


class Counter:
    """Counts the statements that reach the database for one request; `post` returns those."""

    def __init__(self, post: Post) -> None:
        self.post = post

    def __call__(self, make: Callable[[], Any]) -> list[str]:
        """Post a body while the process knows the key, which it asks for twice a second.

        Nor in the moment when it has a search planned anew, once in ten seconds.
        """
        for _ in range(TRIES):
            body = make()
            self.post(single())
            statements = self.post(body)
            if not any(
                "usage_apikey" in sql.partition("WHERE")[0] or sql.startswith("DEALLOCATE")
                for sql in statements
            ):
                return statements
        raise AssertionError("The process does not remember the key, or what it has prepared.")


@pytest.fixture
def count(books: Books, request: pytest.FixtureRequest) -> Iterator[Counter]:
    name = "sqlite_statements" if books.is_sqlite else "postgresql_statements"
    count = Counter(request.getfixturevalue(name))
    count(lambda: batch(2))  # from here on the process is warm, and both customers have a bill
    yield count
    assert_books_balance(books)


@pytest.fixture
def postgresql_statements(books: Books) -> Iterator[Post]:
    """As a relay between a running service and the server sees them."""
    # One thread, and so one connection, which is warm after the first request.
    with (
        Relay(books.url) as relay,
        Service(
            books, url=relay.url, workers=1, threads=1, application="usage.tests.unflushed"
        ) as service,
    ):
        caller = service.caller()

        def post(body: Any) -> list[str]:
            relay.queries.clear()
            assert caller.post(body).status in {200, 201, 207}
            return list(relay.queries)

        yield post


@pytest.fixture
def sqlite_statements(own_books: Books) -> Post:
    """As SQLite itself traces them; there is no wire."""
    traced: list[str] = []
    connection.ensure_connection()
    connection.connection.set_trace_callback(traced.append)
    headers = {"Authorization": f"Bearer {own_books.key}"}

    def post(body: Any) -> list[str]:
        traced.clear()
        response = Client().post(
            "/api/v1/usage/", body, content_type="application/json", headers=headers
        )
        assert response.status_code in {200, 201, 207}
        # Each trigger that a statement fires traces that statement once more.
        return [sql for sql, _ in itertools.groupby(traced)]

    return post


def single() -> Any:
    return usage_body(customer_id=1)


def batch(size: int) -> list[Any]:
    """New records of the same two customers, whatever the size."""
    return [usage_body(customer_id=1 + place % 2) for place in range(size)]


def test_a_new_record(count: Counter) -> None:
    statements = count(single)

    assert len(statements) <= MOST
    assert sum(sql.startswith("BEGIN") for sql in statements) == 1
    assert statements[-1] == "COMMIT"


def test_a_replay_costs_no_more_than_a_new_record(count: Counter) -> None:
    body = single()
    new = count(single)
    count(lambda: body)

    replay = count(lambda: body)

    assert 0 < len(replay) <= len(new)


def test_a_batch_of_1000_costs_what_a_batch_of_2_does(count: Counter) -> None:
    large, small = count(lambda: batch(1000)), count(lambda: batch(2))

    assert len(large) == len(small) <= MOST
    inserts = "INSERT INTO usage_usagerecord", "EXECUTE usage_insert_records"
    assert sum(sql.startswith(inserts) for sql in large) == 1


def test_a_replayed_batch_costs_no_more_than_a_new_one(count: Counter) -> None:
    body = batch(1000)
    new = count(lambda: batch(1000))
    count(lambda: body)

    replay = count(lambda: body)

    assert 0 < len(replay) <= len(new)
