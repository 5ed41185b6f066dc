"""The races again, one by one: what the transaction reads first was overtaken by another."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from usage.ledger import close as closing
from usage.ledger import hold as holding
from usage.ledger.close import BillOnHold, close
from usage.ledger.facts import CloseLockBusy, Conflict, DailyAddition, Fact, Outcome, Recorded
from usage.ledger.hold import HoldRefused, hold
from usage.ledger.record import record
from usage.ledger.statements import STATEMENTS
from usage.models import Bill, DailyUsage, Hold, UsageRecord
from usage.tests.books import Books, assert_books_balance, wait_for_waiter
from usage.tests.factories import FactFactory
from usage.tests.live import PATIENCE_SECONDS

ENGINE = STATEMENTS[connection.vendor]
ALICE, BOB = 1, 2


def recorded(*facts: Fact) -> list[Outcome]:
    return record(facts, reported_by_id=None)


def fact(**fields: Any) -> Fact:
    return FactFactory.build(**{"customer_id": ALICE, **fields})


@pytest.fixture
def first_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], list[Any]]:
    """Let the first call of a statement answer what it is given; later calls ask the database."""

    def make(name: str, stale: Any) -> list[Any]:
        ask = getattr(ENGINE, name)
        answers = [stale]

        def answer(sql: Any, asked: Any) -> Any:
            return answers.pop() if answers else ask(sql, asked)

        monkeypatch.setattr(ENGINE, name, answer)
        return answers

    return make


@pytest.fixture(autouse=True)
def _balance(own_books: Books) -> Iterator[None]:
    yield
    assert_books_balance(own_books)


def accounts(*customers: int) -> Any:
    """What a transaction would read now."""
    with connection.cursor() as cursor:
        return ENGINE(cursor).accounts(set(customers))


def test_a_bill_that_another_opened_meanwhile_is_used(first_read: Any) -> None:
    before = accounts(ALICE)
    recorded(fact())
    left = first_read("accounts", before)

    (outcome,) = recorded(fact())

    assert not left
    assert isinstance(outcome, Recorded)
    assert Bill.objects.get().records.count() == 2


def test_an_id_that_the_same_customer_used_meanwhile_is_a_replay(first_read: Any) -> None:
    same, before = fact(), accounts(ALICE)
    (first,) = recorded(same)
    first_read("accounts", before)
    first_read("stored", {})

    (again,) = recorded(same)

    assert isinstance(first, Recorded)
    assert again == first._replace(replayed=True)
    assert Bill.objects.count() == 1


def test_an_id_that_another_customer_took_meanwhile_opens_no_bill(first_read: Any) -> None:
    recorded(fact(request_id="taken", customer_id=BOB))
    left = first_read("stored", {})

    outcomes = recorded(fact(request_id="taken"))

    assert not left
    assert outcomes == [Conflict(["customer_id"])]
    assert not Bill.objects.filter(customer=ALICE).exists()


def test_an_id_taken_meanwhile_leaves_the_rest_of_its_batch_alone(first_read: Any) -> None:
    recorded(fact(request_id="taken", customer_id=BOB))
    first_read("stored", {})

    outcomes = recorded(fact(request_id="taken"), fact(request_id="new"))

    assert outcomes[0] == Conflict(["customer_id"])
    assert isinstance(outcomes[1], Recorded)
    assert Bill.objects.get(customer=ALICE).records.count() == 1


def test_of_two_bills_to_open_none_stays_empty(first_read: Any) -> None:
    recorded(fact(request_id="taken", customer_id=3))
    first_read("stored", {})

    outcomes = recorded(fact(request_id="taken"), fact(customer_id=BOB))

    assert outcomes[0] == Conflict(["customer_id"])
    assert isinstance(outcomes[1], Recorded)
    assert set(Bill.objects.values_list("customer_id", flat=True)) == {3, BOB}


def test_the_database_itself_refuses_usage_on_a_bill_read_before_it_was_closed(
    first_read: Any,
) -> None:
    recorded(fact())
    before = accounts(ALICE)
    close(Bill.objects.get(), by="Sam")
    first_read("accounts", before)

    with pytest.raises(DatabaseError, match="usage goes on an open bill"):
        recorded(fact())

    assert UsageRecord.objects.count() == 1
    assert DailyUsage.objects.get().records == 1


def test_after_a_close_usage_goes_on_a_bill_for_the_rest_of_the_month() -> None:
    recorded(fact())
    close(Bill.objects.get(), by="Sam")

    recorded(fact())

    first, rest = Bill.objects.order_by("period_start")
    assert first.period_end == rest.period_start
    assert [first.is_closed, rest.is_closed] == [True, False]


# Whoever takes its locks in the order of others cannot deadlock with them


@pytest.mark.parametrize("name", ["open_bills", "insert_records", "add_to_daily_usage"])
def test_rows_are_taken_in_one_order_whatever_the_order_of_the_batch(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    batch = [
        fact(request_id=f"{n}", customer_id=1 + n % 7, service=f"Service {n % 3}")
        for n in range(60)
    ]
    random.Random(1).shuffle(batch)
    method, taken = getattr(ENGINE, name), []

    def take(sql: Any, rows: Any, *source: Any) -> Any:
        taken.extend(rows)
        return method(sql, rows, *source)

    monkeypatch.setattr(ENGINE, name, take)
    recorded(*batch)

    keys = [row[1:6] if isinstance(row, DailyAddition) else row for row in taken]
    assert keys == sorted(keys)
    assert len(keys) >= 7


# The close lock


def in_thread(act: Callable[[], Any]) -> Any:
    """Do something on a connection of this thread's own."""
    try:
        return act()
    finally:
        connection.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def meanwhile(
    own_books: Books, monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor
) -> Callable[..., list[Future[Any]]]:
    """Start something in another thread at the first call of a method, which then goes on."""

    def make(where: Any, name: str, act: Callable[[], Any]) -> list[Future[Any]]:
        method, started = getattr(where, name), []

        def first(*args: Any, **kwargs: Any) -> Any:
            monkeypatch.setattr(where, name, method)
            started.append(pool.submit(in_thread, act))
            wait_for_waiter(own_books, "advisory")
            return method(*args, **kwargs)

        monkeypatch.setattr(where, name, first)
        return started

    return make


def test_a_close_waits_for_the_record_that_took_the_close_lock_first(meanwhile: Any) -> None:
    recorded(fact())
    started = meanwhile(ENGINE, "insert_records", lambda: close(Bill.objects.get(), by="Sam"))

    recorded(fact())

    assert started[0].result(PATIENCE_SECONDS) is True
    bill = Bill.objects.get()
    assert bill.records.count() == 2
    assert bill.closed_total == Decimal("5.80")


def test_a_record_waits_for_the_close_that_took_the_close_lock_first(meanwhile: Any) -> None:
    recorded(fact())
    started = meanwhile(closing, "instant", lambda: recorded(fact()))

    close(Bill.objects.get(), by="Sam")

    (outcome,) = started[0].result(PATIENCE_SECONDS)
    closed, rest = Bill.objects.order_by("period_start")
    assert closed.closed_total == Decimal("2.90")
    assert outcome.record.bill_id == rest.pk


def test_a_close_waits_for_the_hold_that_took_the_close_lock_first(meanwhile: Any) -> None:
    recorded(fact())
    started = meanwhile(holding, "database_now", lambda: close(Bill.objects.get(), by="Sam"))

    hold(Bill.objects.get(), by="Kim", reason="Disputed.")

    with pytest.raises(BillOnHold):
        started[0].result(PATIENCE_SECONDS)
    assert not Bill.objects.get().is_closed


def test_a_hold_waits_for_the_close_that_took_the_close_lock_first(meanwhile: Any) -> None:
    recorded(fact())
    started = meanwhile(
        closing, "instant", lambda: hold(Bill.objects.get(), by="Kim", reason="Disputed.")
    )

    close(Bill.objects.get(), by="Sam")

    with pytest.raises(HoldRefused, match="closed already"):
        started[0].result(PATIENCE_SECONDS)
    assert not Hold.objects.exists()


def test_a_bill_waits_for_a_change_of_currency_that_is_under_way(
    own_books: Books, pool: ThreadPoolExecutor
) -> None:
    with contextlib.closing(own_books.connect()) as staff:
        cursor = staff.cursor()
        cursor.execute("BEGIN")
        cursor.execute(f"UPDATE usage_customer SET currency = 'EUR' WHERE id = {ALICE}")
        recording = pool.submit(in_thread, lambda: recorded(fact()))
        wait_for_waiter(own_books, "transactionid")
        cursor.execute("COMMIT")

    assert isinstance(recording.result(PATIENCE_SECONDS)[0], Recorded)
    assert Bill.objects.get().currency == "EUR"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer at a time.")
@pytest.mark.parametrize("customer_id", [1, 63, 64, 129])
def test_recording_and_closing_of_a_customer_take_the_same_lock(customer_id: int) -> None:
    def close_at_once() -> None:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                ENGINE(cursor).take_close_lock([customer_id], exclusive=True, wait=False)
        finally:
            connection.close()

    with transaction.atomic(), connection.cursor() as cursor, ThreadPoolExecutor(1) as closer:
        ENGINE(cursor).take_close_lock([customer_id])
        with pytest.raises(CloseLockBusy):
            closer.submit(close_at_once).result(PATIENCE_SECONDS)
