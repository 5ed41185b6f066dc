"""Full batches over the same customers and ids, each in an order of its own, at once."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import Any

from usage.tests.books import Books, assert_books_balance
from usage.tests.factories import usage_body
from usage.tests.live import Answer, Caller, Service, at_once

WORKERS = 4
CALLERS = 8
BATCHES = 5
RECORDS = 1000
FACTS = 3000
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


def test_overlapping_batches_from_many_processes_cost_no_error_and_no_deadlock(
    books: Books,
) -> None:
    dice = random.Random(3)
    customers = range(1, 9)
    facts = [
        usage_body(customer_id=dice.choice(customers), service=dice.choice(SERVICES))
        for _ in range(FACTS)
    ]
    with Service(books, workers=WORKERS) as service:
        calls = [
            partial(post_all, caller, [dice.sample(facts, RECORDS) for _ in range(BATCHES)])
            for caller in service.callers(CALLERS)
        ]
        answers = [answer for those in at_once(calls) for answer in those]

        results = [result for answer in answers for result in answer.json["results"]]
        assert {answer.status for answer in answers} == {207}
        assert {result["status"] for result in results} == {200, 201}
        created = Counter(r["request_id"] for r in results if r["status"] == 201)
        assert set(created.values()) == {1}
        documents = {result["request_id"]: result["record"] for result in results}
        assert all(documents[result["request_id"]] == result["record"] for result in results)
        assert_books_balance(books, answered=documents.values())
        assert created.keys() == documents.keys()
    if not books.is_sqlite:
        assert deadlocks(books) == 0
