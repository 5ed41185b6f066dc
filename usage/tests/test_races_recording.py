"""Sixteen callers at once, with real server processes: each fact is recorded once, on one bill."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from usage.tests.books import assert_books_balance
from usage.tests.factories import usage_body
from usage.tests.live import Answer, Caller, Service, at_once

CALLERS = 16
ROUNDS = 12
BATCH = 40


@pytest.fixture(scope="module")
def callers(live_service: Service) -> list[Caller]:
    return live_service.callers(CALLERS)


@pytest.fixture(autouse=True)
def _balance(live_service: Service) -> Iterator[None]:
    yield
    assert_books_balance(live_service.books)
    assert "Traceback" not in live_service.log()


def bodies_of(customer: int, number: int) -> list[Any]:
    return [usage_body(customer_id=customer) for _ in range(number)]


def race(callers: list[Caller], bodies: list[Any]) -> list[Answer]:
    """Let each caller post the body whose turn it is, all at once."""
    turns = zip(callers, itertools.cycle(bodies), strict=False)
    return at_once([partial(caller.post, body) for caller, body in turns])


def created_of(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.status == 201]


def test_one_id_from_everybody_is_created_once_and_replayed_byte_for_byte(
    live_service: Service, callers: list[Caller]
) -> None:
    documents = []
    customers = [live_service.customer() for _ in range(ROUNDS)]
    for customer in customers:  # each without a bill, so that all of them want to open it
        answers = race(callers, [usage_body(customer_id=customer)])

        assert Counter(answer.status for answer in answers) == {201: 1, 200: CALLERS - 1}
        assert len({answer.body for answer in answers}) == 1
        replays = [a for a in answers if a.headers.get("Idempotent-Replayed") == "true"]
        assert [answer.status for answer in replays] == [200] * (CALLERS - 1)
        documents.append(answers[0].json)
    assert_books_balance(live_service.books, of=customers, answered=documents)


def test_many_ids_for_one_customer_are_each_created_once(
    live_service: Service, callers: list[Caller]
) -> None:
    customer = live_service.customer()
    documents = []
    for _ in range(ROUNDS):
        bodies = bodies_of(customer, CALLERS)
        answers = race(callers, bodies)

        assert {answer.status for answer in answers} == {201}
        documents += [answer.json for answer in answers]
    assert_books_balance(live_service.books, of=[customer], answered=documents)


def test_of_two_contents_one_wins_everywhere(live_service: Service, callers: list[Caller]) -> None:
    customers = [live_service.customer() for _ in range(ROUNDS)]
    documents = []
    for customer in customers:
        body = usage_body(customer_id=customer)
        answers = race(callers, [body, {**body, "units_consumed": 59}])

        (winner,) = created_of(answers)
        place = answers.index(winner) % 2
        assert {answer.body for answer in answers[place::2]} == {winner.body}
        for loser in answers[1 - place :: 2]:
            assert loser.status == 409
            assert loser.json["conflicting_fields"] == ["units_consumed"]
        documents.append(winner.json)
    assert_books_balance(live_service.books, of=customers, answered=documents)


def test_of_two_customers_one_gets_the_id_and_the_other_not_even_a_bill(
    live_service: Service, callers: list[Caller]
) -> None:
    losers, documents = [], []
    for _ in range(ROUNDS):
        pair = [live_service.customer(), live_service.customer()]
        body = usage_body(customer_id=pair[0])
        answers = race(callers, [body, {**body, "customer_id": pair[1]}])

        (winner,) = created_of(answers)
        place = answers.index(winner) % 2
        assert {answer.body for answer in answers[place::2]} == {winner.body}
        for loser in answers[1 - place :: 2]:
            assert loser.status == 409
            assert loser.json["conflicting_fields"] == ["customer_id"]
        losers.append(pair[1 - place])
        documents.append(winner.json)
    billed = {bill["customer_id"] for bill in live_service.books.table("usage_bill")}
    assert billed.isdisjoint(losers)
    winners = [document["customer_id"] for document in documents]
    assert_books_balance(live_service.books, of=winners, answered=documents)


def test_one_batch_from_everybody_is_created_once(
    live_service: Service, callers: list[Caller]
) -> None:
    customers = [live_service.customer() for _ in range(3)]
    documents: list[Any] = []
    for _ in range(ROUNDS // 3):
        bodies = bodies_of(customers[0], BATCH) + bodies_of(customers[1], BATCH)
        shuffled = [random.Random(seed).sample(bodies, len(bodies)) for seed in range(CALLERS)]
        answers = race(callers, shuffled)

        documents += assert_each_created_once(answers, len(bodies))
    assert_books_balance(live_service.books, of=customers, answered=documents)


def test_singles_race_the_batch_that_holds_them(
    live_service: Service, callers: list[Caller]
) -> None:
    customer = live_service.customer()
    bodies = bodies_of(customer, CALLERS - 1)

    answers = race(callers, [bodies, *bodies])

    documents = assert_each_created_once(answers, len(bodies))
    assert_books_balance(live_service.books, of=[customer], answered=documents)


def test_batches_that_share_half_their_ids_under_two_customers_settle_each_id(
    live_service: Service, callers: list[Caller]
) -> None:
    pair = [live_service.customer(), live_service.customer()]
    bodies = bodies_of(pair[0], BATCH)
    others = [{**body, "customer_id": pair[1]} for body in bodies[: BATCH // 2]]
    others += bodies_of(pair[1], BATCH // 2)

    answers = race(callers, [bodies, others[::-1]])

    results = [result for answer in answers for result in answer.json["results"]]
    assert {result["status"] for result in results} == {200, 201, 409}
    documents = [result["record"] for result in results if result["status"] == 201]
    assert len(documents) == BATCH + BATCH // 2
    assert_books_balance(live_service.books, of=pair, answered=documents)


def assert_each_created_once(answers: list[Answer], ids: int) -> list[Any]:
    """Assert it of singles and batches alike, and return the records."""
    results: list[tuple[int, Any]] = []
    for answer in answers:
        if answer.status == 207:
            results += [(result["status"], result["record"]) for result in answer.json["results"]]
        else:
            results.append((answer.status, answer.json))
    documents: dict[str, Any] = {}
    for _, record in results:
        assert documents.setdefault(record["request_id"], record) == record
    assert len(documents) == ids
    assert Counter(status for status, _ in results)[201] == ids
    assert {status for status, _ in results} == {200, 201}
    return list(documents.values())
