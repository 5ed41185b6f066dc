"""Closing among callers who never pause: no record on a closed bill, none lost, none starved."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from usage.ledger.record import record
from usage.models import Bill, HistoryEntry
from usage.tests.books import CUSTOMERS, Books, assert_books_balance
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import FactFactory, usage_body
from usage.tests.live import PATIENCE_SECONDS, Answer, Caller, Service, at_once

# Other tests measure this code.
pytestmark = pytest.mark.no_cover

CLOSES = 40
MOST_ROUNDS = 5000
CALLERS = {"postgresql": 6, "sqlite": 4}  # one at a time writes a file
BATCH = 50


class Closer:
    """A process of its own that closes bills, and counts them; it fails if a close gives up."""

    def __init__(self, service: Service, customers: list[int]) -> None:
        self.done = threading.Event()
        self.closed = 0
        self._command = [
            *(sys.executable, "-m", "usage.tests.closer", str(CLOSES)),
            *map(str, customers),
        ]
        self._environment = os.environ | {"DATABASE_URL": service.books.url}

    def run(self) -> list[Answer]:
        try:
            run = subprocess.run(
                self._command,
                check=False,
                cwd=settings.BASE_DIR,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            )
        finally:
            self.done.set()
        assert run.returncode == 0, run.stderr
        self.closed = int(run.stdout)
        return []


def post_until(closer: Closer, caller: Caller, customers: list[int], size: int) -> list[Answer]:
    """Post batches, or singles if `size` is 1, spread over the customers, until all is closed."""
    answers = []
    for number in range(MOST_ROUNDS):
        records = [
            usage_body(customer_id=customers[(number + place) % len(customers)])
            for place in range(size)
        ]
        answers.append(caller.post(records if size > 1 else records[0]))
        if closer.done.is_set():
            break
    return answers


@pytest.fixture
def _balance(live_service: Service) -> Iterator[None]:
    yield
    assert_books_balance(live_service.books)
    assert "Traceback" not in live_service.log()


@pytest.mark.usefixtures("_balance")
@pytest.mark.parametrize("number", [1, 3], ids=["one customer", "three customers"])
def test_a_closer_races_batches_and_singles(live_service: Service, number: int) -> None:
    customers = [live_service.customer() for _ in range(number)]
    closer = Closer(live_service, customers)
    number_of_callers = CALLERS["sqlite" if live_service.books.is_sqlite else "postgresql"]
    sizes = [1, BATCH] * (number_of_callers // 2)
    calls: list[Callable[[], list[Answer]]] = [closer.run]
    calls += [
        partial(post_until, closer, caller, customers, size)
        for caller, size in zip(live_service.callers(number_of_callers), sizes, strict=True)
    ]

    answers = [answer for those in at_once(calls) for answer in those]

    documents = recorded(answers)
    bills = [b for b in live_service.books.table("usage_bill") if b["customer_id"] in customers]
    closed = [bill for bill in bills if bill["closed_at"] is not None]
    assert len(closed) == closer.closed >= CLOSES
    # Callers recorded before, between and after the closes.
    per_bill = Counter(document["bill"]["id"] for document in documents)
    assert per_bill.keys() == {bill["id"] for bill in bills}
    assert_books_balance(live_service.books, of=customers, answered=documents)


def recorded(answers: list[Answer]) -> list[Any]:
    """Assert that every record was created, and return all of them."""
    documents = []
    for answer in answers:
        assert answer.status in {201, 207}, answer.body
        if answer.status == 201:
            documents.append(answer.json)
        else:
            results = answer.json["results"]
            assert {result["status"] for result in results} == {201}
            documents += [result["record"] for result in results]
    return documents


def close_bills() -> list[str]:
    """Run the command on a connection of this thread's own; return what it says."""
    output = StringIO()
    try:
        call_command("close_bills", stdout=output)
    finally:
        connection.close()
    return output.getvalue().splitlines()


def test_two_runs_of_close_bills_at_once_close_each_bill_once(
    own_books: Books, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-10-20T12:00:00Z")
    customers = CUSTOMERS[:100]
    record([FactFactory.build(customer_id=id_) for id_ in customers], reported_by_id=None)
    database_clock.set("2026-11-20T12:00:00Z")

    said = [line for lines in at_once([close_bills, close_bills]) for line in lines]

    closed = [line for line in said if line.startswith("Closed bill")]
    assert len(closed) == len(set(closed)) == len(customers)
    assert HistoryEntry.objects.count() == Bill.objects.closed().count() == len(customers)
    assert_books_balance(own_books)
