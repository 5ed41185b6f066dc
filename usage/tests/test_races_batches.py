"""Batches over the same customers and ids, each in an order of its own, at once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest

from usage.tests.books import Books, assert_books_balance
from usage.tests.factories import usage_body
from usage.tests.live import Answer, Caller, Service, at_once

# Other tests measure this code.
pytestmark = [pytest.mark.live, pytest.mark.no_cover]
BATCHES = 3
FACTS = 3000
PRICES = 20
SERVICES = ["CDN Storage", "Database Hosting", "Linux Instance"]


def post_all(caller: Caller, batches: list[Any]) -> list[Answer]:
    return [caller.post(batch) for batch in batches]


def deadlocks(books: Books) -> int:
    """Return how many deadlocks PostgreSQL has counted, once nobody is connected any more."""
    database = f"datname = '{books.path}'"
    others = f"SELECT count(*) FROM pg_stat_activity WHERE {database} AND pid <> pg_backend_pid()"
    for _ in range(10_000):  # a connection hands in its statistics before it disappears
        if books.rows(others) == [(0,)]:
            break
    ((number,),) = books.rows(f"SELECT deadlocks FROM pg_stat_database WHERE {database}")
    assert isinstance(number, int)
    return number


def facts(number: int) -> list[Any]:
    """Facts of a few customers, services and prices, in no order."""
    dice = random.Random(number)
    return [
        usage_body(
            customer_id=dice.choice(range(1, 9)),
            service=dice.choice(SERVICES),
            price_per_unit=f"0.0{dice.randrange(1, PRICES)}",
        )
        for _ in range(number)
    ]


def overlapping(caller: int, size: int) -> list[Any]:
    """Batches that hold what those of the other callers hold, in another order."""
    dice = random.Random(caller)
    return [dice.sample(SHARED[: 3 * size], size) for _ in range(BATCHES)]


def apart(caller: int, size: int) -> list[Any]:
    """Batches of one caller's own: they meet those of others in bills and daily usage only."""
    own = facts(size * BATCHES)
    return [own[start : start + size] for start in range(0, len(own), size)]


SHARED = facts(FACTS)


class Callers(NamedTuple):
    """How many processes and callers, and how many records each batch has."""

    workers: int
    callers: int
    size: int


CALLERS = {
    # More processes than slots of daily usage, so that some write the same rows.
    "full": {"postgresql": Callers(8, 8, 1000), "sqlite": Callers(8, 4, 1000)},
    # Several callers of each process, whose batches share transactions.
    "hundreds": {"postgresql": Callers(3, 24, 100), "sqlite": Callers(2, 8, 100)},
}


@pytest.mark.parametrize("load", CALLERS)
@pytest.mark.parametrize("batches_of", [overlapping, apart])
def test_batches_from_many_processes_cost_no_error_and_no_deadlock(
    books: Books, batches_of: Callable[[int, int], list[Any]], load: str
) -> None:
    workers, callers, size = CALLERS[load]["sqlite" if books.is_sqlite else "postgresql"]
    with Service(books, workers=workers, threads=2 * callers) as service:
        calls = [
            partial(post_all, caller, batches_of(number, size))
            for number, caller in enumerate(service.callers(callers))
        ]
        answers = [answer for those in at_once(calls) for answer in those]

        assert {answer.status for answer in answers} == {207}
        results = [result for answer in answers for result in answer.json["results"]]
        assert {result["status"] for result in results} <= {200, 201}
        created = Counter(r["request_id"] for r in results if r["status"] == 201)
        assert set(created.values()) == {1}
        documents = {result["request_id"]: result["record"] for result in results}
        assert all(documents[result["request_id"]] == result["record"] for result in results)
        assert created.keys() == documents.keys()
        assert_books_balance(books, answered=documents.values())
    if not books.is_sqlite:
        assert deadlocks(books) == 0
