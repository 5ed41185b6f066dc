"""The write path repeats transactions, gives up on an unavailable database, and hides no bug."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from django.db import (
    IntegrityError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    connection,
    transaction,
)
from django.test import Client

from usage.database import transactions
from usage.database.transactions import DatabaseUnavailable
from usage.ledger import record as recording
from usage.ledger.facts import Outcome, Recorded
from usage.ledger.record import record
from usage.ledger.statements import STATEMENTS
from usage.models import Bill, BillingTimeZone, UsageRecord
from usage.tests.books import (
    Books,
    assert_books_balance,
    default_database,
    verify_bills,
    wait_for_waiter,
)
from usage.tests.factories import FactFactory, usage_body
from usage.tests.live import PATIENCE_SECONDS

pytestmark = pytest.mark.measured

MOST_SECONDS = 8.0
ENGINE = STATEMENTS[connection.vendor]
# Session settings under which the database loses its patience soon.
HASTY = {"timeout": 0.05}
Act = Callable[[], Any]


@pytest.fixture(autouse=True)
def _balance(own_books: Books) -> Iterator[None]:
    # Else the first bill does it, in an atomic block that the tests below would count.
    BillingTimeZone.objects.keep(Bill.objects.all())
    yield
    assert_books_balance(own_books)
    verify_bills(own_books)


@pytest.fixture
def postgresql(own_books: Books) -> None:
    if own_books.is_sqlite:
        pytest.skip("SQLite has one writer at a time: nothing of the kind can happen.")


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Do something before each of the first calls of a method; the list names the calls made."""

    def make(where: Any, name: str, *acts: Act) -> list[str]:
        method, to_do, calls = getattr(where, name), list(acts), []

        def called(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if to_do:
                to_do.pop(0)()
            return method(*args, **kwargs)

        monkeypatch.setattr(where, name, called)
        return calls

    return make


@pytest.fixture
def other(own_books: Books) -> Iterator[Any]:
    """A cursor in an open transaction of another connection."""
    with contextlib.closing(own_books.connect()) as stranger:
        cursor = stranger.cursor()
        cursor.execute("BEGIN")
        yield cursor


def run(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def recorded(request_id: str = "fact") -> Outcome:
    fact = FactFactory.build(request_id=request_id, customer_id=1)
    (outcome,) = record([fact], reported_by_id=None)
    return outcome


def post(books: Books) -> Any:
    return Client(raise_request_exception=False).post(
        "/api/v1/usage/",
        usage_body(customer_id=1),
        content_type="application/json",
        headers={"Authorization": f"Bearer {books.key}"},
    )


def assert_recorded_at_attempt(number: int, outcome: Outcome, attempts: list[str]) -> None:
    assert isinstance(outcome, Recorded)
    assert not outcome.replayed
    assert len(attempts) == number
    assert UsageRecord.objects.count() == 1


# Repeated


@pytest.mark.usefixtures("postgresql")
def test_a_lost_connection_is_made_anew(own_books: Books, before: Any) -> None:
    attempts = before(recording, "transact")
    run("SELECT 1")
    backend = connection.connection.info.backend_pid
    before(
        ENGINE,
        "add_to_daily_usage",
        lambda: own_books.rows(f"SELECT pg_terminate_backend({backend}, 5000)"),
    )

    outcome = recorded()

    assert_recorded_at_attempt(2, outcome, attempts)


@pytest.mark.usefixtures("postgresql")
def test_a_connection_that_the_driver_has_closed_is_made_anew(before: Any) -> None:
    attempts = before(transaction, "atomic")
    run("SELECT 1")
    # As within a request that has used it already.
    connection.health_check_done = True  # type: ignore[attr-defined]  # not in the stubs
    connection.connection.close()

    outcome = recorded()

    assert_recorded_at_attempt(2, outcome, attempts)


@pytest.mark.usefixtures("postgresql")
def test_a_deadlock_is_repeated(own_books: Books, before: Any, other: Any) -> None:
    attempts = before(recording, "transact")
    run("SET deadlock_timeout = '20ms'")  # this side finds out, and is the one that gives up
    other.execute("SET deadlock_timeout = '60s'")
    other.execute("LOCK TABLE usage_dailyusage IN SHARE MODE")

    def want_the_gate() -> None:
        other.execute("SELECT pg_advisory_xact_lock(45329, 1)")
        other.execute("ROLLBACK")

    with ThreadPoolExecutor(1) as pool:

        def let_it_want_the_gate() -> None:
            pool.submit(want_the_gate)
            wait_for_waiter(own_books, "advisory")

        before(ENGINE, "add_to_daily_usage", let_it_want_the_gate)
        outcome = recorded()

    assert_recorded_at_attempt(2, outcome, attempts)
    run("SELECT pg_stat_force_next_flush()")
    statistics = f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{own_books.path}'"
    assert own_books.rows(statistics) == [(1,)]


@pytest.mark.usefixtures("postgresql")
def test_a_serialization_failure_is_repeated(before: Any, own_books: Books) -> None:
    recorded("earlier")
    attempts = before(recording, "transact")
    run("SET default_transaction_isolation = 'repeatable read'")

    def overtake() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(in_thread, recorded).result(PATIENCE_SECONDS)

    before(ENGINE, "insert_records", overtake)
    outcome = recorded()

    assert isinstance(outcome, Recorded)
    assert outcome.replayed
    assert len(attempts) == 3  # the one that failed, the overtaker's, and the next
    assert UsageRecord.objects.count() == 2


def in_thread(act: Act) -> Any:
    try:
        return act()
    finally:
        connection.close()


@pytest.mark.usefixtures("postgresql")
def test_a_column_whose_type_was_changed_needs_a_new_connection(own_books: Books) -> None:
    recorded("earlier")
    with contextlib.closing(own_books.connect()) as migration:
        migration.cursor().execute(
            "ALTER TABLE usage_usagerecord ALTER COLUMN request_id TYPE varchar(200)"
        )

    assert isinstance(recorded("later"), Recorded)
    assert UsageRecord.objects.count() == 2


@pytest.mark.usefixtures("postgresql")
def test_a_feature_that_the_server_lacks_is_an_error_of_ours(own_books: Books) -> None:
    with pytest.raises(NotSupportedError, match="not allowed"):
        transactions.repeatable(lambda: run("SELECT count(*) FROM usage_bill FOR UPDATE"))


@pytest.mark.usefixtures("postgresql")
def test_a_lock_timeout_is_repeated(before: Any, other: Any) -> None:
    attempts = before(recording, "transact")
    run("SET lock_timeout = '20ms'")
    other.execute("LOCK TABLE usage_usagerecord IN SHARE MODE")
    before(time, "sleep", lambda: other.execute("ROLLBACK"))

    outcome = recorded()

    assert_recorded_at_attempt(2, outcome, attempts)


def test_a_locked_file_is_tried_again(own_books: Books, before: Any, other: Any) -> None:
    if not own_books.is_sqlite:
        pytest.skip("PostgreSQL locks rows and not the file: see the lock timeout.")
    other.execute("ROLLBACK")
    other.execute("BEGIN IMMEDIATE")
    with default_database(own_books.url, **HASTY):
        pauses = before(time, "sleep", lambda: other.execute("ROLLBACK"))
        outcome = recorded()

    assert_recorded_at_attempt(1, outcome, pauses)  # the one before that did not get to begin


# Given up


@pytest.fixture
def locked(own_books: Books, other: Any) -> Iterator[None]:
    """A database whose lock is held for longer than the service waits."""
    if own_books.is_sqlite:
        other.execute("ROLLBACK")
        other.execute("BEGIN IMMEDIATE")
        with default_database(own_books.url, **HASTY):
            yield
            other.execute("ROLLBACK")
    else:
        run("SET lock_timeout = '20ms'")
        other.execute("LOCK TABLE usage_dailyusage IN SHARE MODE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.usefixtures("locked")
def test_a_lock_that_stays_is_unavailable_and_nothing_is_stored(before: Any) -> None:
    attempts = before(transaction, "atomic")

    with pytest.raises(DatabaseUnavailable):
        recorded()

    assert len(attempts) == 5
    assert not UsageRecord.objects.exists()


@pytest.mark.usefixtures("locked")
def test_the_caller_of_an_unavailable_database_is_told_when_to_come_back(own_books: Books) -> None:
    response = post(own_books)

    assert response.status_code == 503
    assert response["Retry-After"] == "1"
    assert response.json()["code"] == "service_unavailable"
    assert not UsageRecord.objects.exists()


def test_all_attempts_are_over_after_8_seconds(
    own_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt waits as long as it may, on a clock that passes by itself."""
    clock = Clock(longest_wait())
    monkeypatch.setattr("usage.database.transactions.time", clock)
    run("SELECT 1")
    began = clock.now
    wait = busy()

    def work() -> None:
        clock.pass_longest_wait()
        raise wait

    with pytest.raises(DatabaseUnavailable):
        transactions.repeatable(work)

    assert clock.now - began <= MOST_SECONDS


@pytest.mark.usefixtures("postgresql")
def test_no_statement_begins_when_it_could_not_end_in_time(
    own_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three statements of 2 seconds each leave no room for a fourth that may take 5."""
    clock = Clock(2.0)
    monkeypatch.setattr("usage.database.transactions.time", clock)
    statements = []

    def work() -> None:
        for number in range(4):
            run("SELECT 1")
            statements.append(number)
            clock.pass_longest_wait()

    with pytest.raises(DatabaseUnavailable):
        transactions.repeatable(work)

    assert statements == [0, 1]


def test_a_caller_who_has_waited_too_long_already_begins_nothing(own_books: Books) -> None:
    with pytest.raises(DatabaseUnavailable):
        transactions.repeatable(lambda: run("SELECT 1"), began=time.monotonic() - 3.1)


def test_what_repeating_does_not_mend_is_an_error_of_ours(own_books: Books) -> None:
    def work() -> None:
        raise transactions.Repeat("Again and again.")

    with pytest.raises(transactions.Repeat):
        transactions.repeatable(work)


@pytest.mark.usefixtures("postgresql")
def test_a_server_that_became_a_standby_is_left_for_a_new_connection(
    own_books: Books, before: Any
) -> None:
    run("SET default_transaction_read_only = on")

    assert isinstance(recorded(), Recorded)


def busy() -> OperationalError:
    """Return the error of a wait that ended without the lock."""
    cause = sqlite3.OperationalError("database is locked")
    cause.sqlite_errorcode = sqlite3.SQLITE_BUSY
    error = OperationalError("database is locked")
    error.__cause__ = cause
    return error


def longest_wait() -> float:
    """Return how long one statement may wait for a lock by the settings of production."""
    options = connection.settings_dict["OPTIONS"]
    if connection.vendor == "sqlite":
        return float(options["timeout"])
    return int(options["options"].partition("lock_timeout=")[2].split()[0]) / 1000


class Clock:
    """Replaces the time module."""

    def __init__(self, longest_wait: float) -> None:
        self.now = time.monotonic()
        self.longest_wait = longest_wait

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def pass_longest_wait(self) -> None:
        self.now += self.longest_wait


@pytest.mark.usefixtures("postgresql")
def test_a_statement_that_takes_too_long_is_not_repeated(before: Any, other: Any) -> None:
    attempts = before(recording, "transact")
    run("SET lock_timeout = 0")
    run("SET statement_timeout = '20ms'")
    other.execute("LOCK TABLE usage_dailyusage IN SHARE MODE")

    with pytest.raises(DatabaseUnavailable):
        recorded()

    assert len(attempts) == 1
    other.execute("ROLLBACK")
    assert not UsageRecord.objects.exists()


# Not hidden


def test_a_missing_table_is_an_error_of_ours(own_books: Books, before: Any) -> None:
    attempts = before(recording, "transact")
    run("ALTER TABLE usage_dailyusage RENAME TO usage_moved")
    try:
        response = post(own_books)
    finally:
        run("ALTER TABLE usage_moved RENAME TO usage_dailyusage")

    assert response.status_code == 500
    assert response.json()["code"] == "internal_error"
    assert "Retry-After" not in response
    assert len(attempts) == 1
    assert not UsageRecord.objects.exists()


def test_a_wrong_statement_is_an_error_of_ours(own_books: Books, before: Any) -> None:
    """SQLite calls it an OperationalError, like a locked file."""
    attempts = before(recording, "transact", lambda: run("SELECT no_such_column"))

    with pytest.raises((ProgrammingError, OperationalError), match="no_such_column"):
        recorded()

    assert len(attempts) == 1


def test_a_broken_rule_is_an_error_of_ours(own_books: Books, before: Any) -> None:
    attempts = before(recording, "transact")
    fact = FactFactory.build(customer_id=1, units=Decimal(-1))  # no caller gets so far with it

    with pytest.raises(IntegrityError):
        record([fact], reported_by_id=None)

    assert len(attempts) == 1
    assert not UsageRecord.objects.exists()
