"""Every setting of a PostgreSQL server that a promise rests on, turned wrong: pinned or refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection
from django.test import Client
from pytest_django.plugin import DjangoDbBlocker

from usage.database.deadline import DatabaseUnavailable
from usage.database.postgresql.session import ADVISED, PINNED, REQUIRED, REQUIRED_TO_RECORD
from usage.ledger.facts import Recorded
from usage.ledger.record import record
from usage.tests.books import Books, assert_books_balance, default_database
from usage.tests.factories import FactFactory
from usage.tests.guarded import on_postgresql

pytestmark = [on_postgresql, pytest.mark.measured]
WRONG = {
    "default_transaction_isolation": "repeatable read",
    "TimeZone": "Pacific/Kiritimati",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
    "usage.truncate_allowed": "on",
}
UNREADY = {
    "default_transaction_read_only": ("on", "read-only"),
    "session_replication_role": ("replica", "session_replication_role"),
}


@pytest.fixture
def mis_set(own_books: Books) -> Any:
    def mis_set(name: str, value: str) -> None:
        with contextlib.closing(own_books.connect()) as stranger:
            stranger.cursor().execute(f"ALTER DATABASE {own_books.path} SET {name} = '{value}'")
        connection.close()  # what follows is on a session of its own

    return mis_set


def shown(name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        return str(cursor.fetchone()[0])


def test_each_setting_is_turned_wrong_below() -> None:
    assert WRONG.keys() == PINNED.keys()
    names = {requirement.name for requirement in REQUIRED + REQUIRED_TO_RECORD + ADVISED}
    assert names == {
        *("server_encoding", "in_hot_standby", "default_transaction_read_only"),
        *("fsync", "full_page_writes"),
    }


@pytest.mark.parametrize("name", PINNED)
def test_a_session_pins_what_the_promises_rest_on(mis_set: Any, name: str) -> None:
    mis_set(name, WRONG[name])

    assert shown(name) == PINNED[name]


@pytest.mark.parametrize("value", ["off", "local", "remote_write", "on"])
def test_a_weaker_commit_is_pinned_on(mis_set: Any, value: str) -> None:
    mis_set("synchronous_commit", value)

    assert shown("synchronous_commit") == "on"


def test_a_stronger_commit_is_left_alone(mis_set: Any) -> None:
    mis_set("synchronous_commit", "remote_apply")

    assert shown("synchronous_commit") == "remote_apply"


def test_the_service_is_ready_whatever_the_database_says(mis_set: Any) -> None:
    for name, value in WRONG.items():
        mis_set(name, value)

    assert Client().get("/readyz").json() == {"status": "ok", "missing": []}


def test_options_of_the_address_do_not_loosen_a_pin(own_books: Books) -> None:
    options = "-c default_transaction_isolation=serializable"
    with default_database(own_books.url, options=options):
        assert shown("transaction_isolation") == "read committed"


def test_records_are_stored_whatever_the_database_says(mis_set: Any, own_books: Books) -> None:
    for name, value in WRONG.items():
        mis_set(name, value)

    facts = [FactFactory.build(customer_id=1, service=name) for name in ("€", "日", r"a\'b")]
    outcomes = record(facts, reported_by_id=None)

    assert all(isinstance(outcome, Recorded) for outcome in outcomes)
    assert_books_balance(own_books)


@pytest.mark.parametrize("name", UNREADY)
def test_a_service_that_cannot_record_is_not_ready_and_says_why(mis_set: Any, name: str) -> None:
    value, word = UNREADY[name]
    mis_set(name, value)

    response = Client().get("/readyz")

    assert response.status_code == 503
    assert word in response.json()["missing"][0]


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def other_encoding(
    books: Books, request: pytest.FixtureRequest, django_db_blocker: DjangoDbBlocker
) -> Iterator[str]:
    """An empty database in another encoding than UTF8, which is this process's database."""
    name = f"{books.path}_{request.param.lower()}"
    with contextlib.closing(books.connect()) as server, django_db_blocker.unblock():
        server.cursor().execute(
            f"CREATE DATABASE {name} ENCODING '{request.param}' TEMPLATE template0 LOCALE 'C'"
        )
        try:
            with default_database(books.url.replace(books.path, name)):
                yield request.param
        finally:
            server.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_database_in_another_encoding_is_refused_by_migrate_and_check(
    other_encoding: str,
) -> None:
    refusal = f"encoding is {other_encoding}"
    with pytest.raises(SystemCheckError, match=refusal):
        call_command("migrate", verbosity=0, skip_checks=False)
    with pytest.raises(SystemCheckError, match=refusal):
        call_command("check", "--database", "default")


def test_a_database_in_another_encoding_is_not_ready(other_encoding: str) -> None:
    response = Client().get("/readyz")

    assert response.status_code == 503
    assert f"encoding is {other_encoding}" in response.json()["missing"][0]


def test_nothing_is_recorded_in_another_encoding(other_encoding: str) -> None:
    # Half of the records would go through, and a "€" would be a 500 for ever.
    with pytest.raises(DatabaseUnavailable, match=f"encoding is {other_encoding}"):
        record([FactFactory.build()], reported_by_id=None)


def test_a_server_that_does_not_write_through_is_advised_against(own_books: Books) -> None:
    out = StringIO()
    call_command("check", "--database", "default", stdout=out, stderr=out)

    unsafe = shown("fsync") == "off"
    assert ("fsync is off" in out.getvalue()) == unsafe


# What keeps a process from recording now


def not_ready() -> str:
    response = Client().get("/readyz")
    assert response.status_code == 503
    return str(response.json()["missing"][0])


def test_a_lock_that_is_held_is_called_a_lock(own_books: Books) -> None:
    with contextlib.closing(own_books.connect()) as stranger:
        cursor = stranger.cursor()
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE usage_usagerecord IN SHARE MODE")

        assert "A lock is held" in not_ready()


def test_exhausted_connections_are_called_that(own_books: Books) -> None:
    with contextlib.closing(own_books.connect()) as server:
        connection.close()
        server.cursor().execute(f"ALTER DATABASE {own_books.path} CONNECTION LIMIT 0")
        server.cursor().execute("CREATE ROLE limited LOGIN IN ROLE postgres")
        try:
            with default_database(own_books.url.replace("postgres@", "limited@", 1)):
                assert "no connection left" in not_ready()
        finally:
            server.cursor().execute("DROP ROLE limited")


def test_a_wrong_database_name_is_called_that(own_books: Books) -> None:
    with default_database(own_books.url.replace(own_books.path, "nowhere")):
        assert "no such user or database" in not_ready()
