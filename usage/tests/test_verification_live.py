"""Verifying bills that go on being written: one state of the database is judged, not several."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from django.db import connection

from usage.ledger.facts import Recorded
from usage.ledger.record import record
from usage.models import UsageRecord
from usage.tests.books import Books
from usage.tests.factories import FactFactory
from usage.verification import Difference, Verification


def use(request_id: str) -> None:
    """Record usage from another connection, and commit it."""
    outcomes: list[Any] = []

    def work() -> None:
        outcomes.extend(
            record([FactFactory.build(request_id=request_id, customer_id=1)], reported_by_id=None)
        )
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert isinstance(outcomes[0], Recorded)


def verified_while_written() -> list[Difference]:
    """Verify all bills, with usage recorded and committed after each statement that reads."""
    written: list[str] = []

    def write_after(execute: Callable[..., Any], sql: str, *others: Any) -> Any:
        result = execute(sql, *others)
        if "SELECT" in sql:
            written.append(f"meanwhile:{len(written)}")
            use(written[-1])
        return result

    with connection.execute_wrapper(write_after):
        differences = list(Verification().differences())
    assert len(written) > 5
    assert UsageRecord.objects.filter(pk__in=written).count() == len(written)
    return differences


def test_usage_committed_between_its_statements_raises_no_false_alarm(own_books: Books) -> None:
    use("before")

    assert verified_while_written() == []
    assert list(Verification().differences()) == []


def test_without_the_snapshot_it_would(own_books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    use("before")
    monkeypatch.setattr("usage.verification.verification.snapshot", nullcontext)

    assert verified_while_written() != []


def test_the_snapshot_holds_up_no_writer_and_is_over_afterwards(own_books: Books) -> None:
    use("before")
    verification = Verification()
    differences = verification.differences()
    assert list(differences) == []
    use("afterwards")

    again = Verification()
    assert list(again.differences()) == []
    assert (verification.records, again.records) == (1, 2)
