"""Worker processes are killed while they record, and files are locked: nothing is half stored."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from http.client import HTTPException
from typing import Any

import pytest
from pytest_django.plugin import DjangoDbBlocker

from usage.tests.books import Books, assert_books_balance, verify_bills
from usage.tests.factories import usage_body
from usage.tests.live import PATIENCE_SECONDS, Caller, Service, at_once

pytestmark = pytest.mark.live
CALLERS = 6
BATCHES = 20
RECORDS = 50
KILLS = 3
MOST_TRIES = 20


@pytest.fixture
def service(books: Books, django_db_blocker: DjangoDbBlocker) -> Iterator[Service]:
    with Service(books, preload=False) as service:
        yield service
    with django_db_blocker.unblock():
        verify_bills(books)


class Progress:
    """Counts answers, and lets a thread wait for the next one."""

    def __init__(self) -> None:
        self._answers = 0
        self._changed = threading.Condition()

    def advance(self) -> None:
        with self._changed:
            self._answers += 1
            self._changed.notify_all()

    def wait_for(self, answers: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._answers >= answers, PATIENCE_SECONDS)


def persist(caller: Caller, batches: list[Any], progress: Progress) -> tuple[list[Any], int]:
    """Post each batch until it is answered; return the results, and how many posts were lost."""
    results, lost = [], 0
    for batch in batches:
        for _ in range(MOST_TRIES):
            try:
                answer = caller.post(batch)
            except (HTTPException, OSError):
                lost += 1
                continue
            assert answer.status == 207, answer.body
            results += answer.json["results"]
            break
        else:
            raise AssertionError(f"A batch was never answered, in {MOST_TRIES} tries.")
        progress.advance()
    return results, lost


def kill_now_and_then(service: Service, progress: Progress) -> tuple[list[Any], int]:
    """Kill every worker, again and again, each time in the middle of the callers' work."""
    for number in range(1, KILLS + 1):
        progress.wait_for(number * CALLERS * BATCHES // (KILLS + 1))
        service.kill_workers()
    return [], 0


def test_killed_workers_leave_nothing_half_stored(service: Service) -> None:
    customers = [service.customer() for _ in range(3)]
    progress = Progress()
    posts = [
        partial(
            persist,
            caller,
            [
                [usage_body(customer_id=customers[n % 3]) for n in range(RECORDS)]
                for _ in range(BATCHES)
            ],
            progress,
        )
        for caller in service.callers(CALLERS)
    ]

    done = at_once([*posts, partial(kill_now_and_then, service, progress)])

    assert sum(lost for _, lost in done) > 0
    results = [result for those, _ in done for result in those]
    assert {result["status"] for result in results} <= {200, 201}
    documents = [result["record"] for result in results]
    assert len(documents) == CALLERS * BATCHES * RECORDS
    assert_books_balance(service.books, of=customers, answered=documents)


def test_a_file_that_another_process_keeps_locked_is_unavailable_for_now(service: Service) -> None:
    if not service.books.is_sqlite:
        pytest.skip("PostgreSQL locks no whole database.")
    customer = service.customer()
    body = usage_body(customer_id=customer)
    with contextlib.closing(service.books.connect()) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        refused = service.caller().post(body)
        stranger.execute("ROLLBACK")
    assert_books_balance(service.books, of=[customer], answered=[])

    answer = service.caller().post(body)

    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert answer.status == 201
    assert_books_balance(service.books, of=[customer], answered=[answer.json])
