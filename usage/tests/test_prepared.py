"""PostgreSQL plans the write path's statements once for each connection."""

from __future__ import annotations

from time import monotonic

import pytest
from django.db import connection

from usage.ledger.facts import Outcome, Recorded
from usage.ledger.record import record
from usage.tests.factories import FactFactory

pytestmark = [
    pytest.mark.measured,
    pytest.mark.usefixtures("own_books"),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no such statements."),
]


def recorded() -> Outcome:
    (outcome,) = record([FactFactory.build(customer_id=1)], reported_by_id=None)
    return outcome


def run(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def prepared() -> dict[str, int]:
    """Return how often each statement was executed that the connection has prepared."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, generic_plans + custom_plans FROM pg_prepared_statements")
        return dict(cursor.fetchall())


def test_what_is_asked_again_and_again_is_prepared_once() -> None:
    recorded()
    first = prepared()
    recorded()

    assert {"usage_accounts", "usage_insert_records", "usage_add_to_daily_usage"} < first.keys()
    assert prepared() == {name: times + 1 for name, times in first.items()}


def test_a_search_is_planned_anew_after_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded()
    before = prepared()
    now = monotonic()
    monkeypatch.setattr("usage.database.prepared.monotonic", lambda: now + 10)

    recorded()

    after = prepared()
    assert before["usage_accounts"] > after["usage_accounts"] == 1
    assert after["usage_add_to_daily_usage"] == before["usage_add_to_daily_usage"] + 1


@pytest.mark.parametrize("meddling", ["DISCARD ALL", "DEALLOCATE usage_add_to_daily_usage"])
def test_what_the_server_has_forgotten_is_prepared_again(meddling: str) -> None:
    recorded()
    run(meddling)

    assert isinstance(recorded(), Recorded)


def test_a_name_that_is_taken_is_given_up_with_its_connection() -> None:
    run("PREPARE usage_add_to_daily_usage AS SELECT 1")

    assert isinstance(recorded(), Recorded)
