"""Fixtures of the service's tests."""

import datetime as dt
import fcntl
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from pytest_django.plugin import DjangoDbBlocker

from usage.api.authentication import known_keys
from usage.api.traffic import traffic
from usage.database import transactions, triggers
from usage.ledger.close import close
from usage.ledger.record import record
from usage.models import ApiKey, Bill, Customer
from usage.tests import cluster
from usage.tests.books import (
    Books,
    copied,
    create_database,
    database_url,
    default_database,
    drop_database,
    filled,
)
from usage.tests.factories import CustomerFactory, FactFactory
from usage.tests.live import Service
from usage.tests.staff import logged_in

# A migration made the roles, and later tests need them.
KEPT_TABLES = ("auth_group_permissions", "auth_group", "auth_permission", "django_content_type")

# On PostgreSQL, the database that the processes of a run copy.
MIGRATED = f"migrated_{os.getppid() if 'PYTEST_XDIST_WORKER' in os.environ else os.getpid()}"


class DatabaseClock:
    """The database's clock, standing still where it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def set(self, now: str) -> dt.datetime:
        """Stop the clock at an instant of RFC 3339, and return that."""
        instant = dt.datetime.fromisoformat(now)
        text = instant.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        sql = {"postgresql": f"'{text}+00'::timestamptz", "sqlite": f"'{text}'"}
        for vendor, literal in sql.items():
            self.monkeypatch.setitem(transactions.NOW, vendor, literal)
        return instant


@pytest.fixture
def database_clock(monkeypatch: pytest.MonkeyPatch) -> DatabaseClock:
    return DatabaseClock(monkeypatch)


@pytest.fixture(autouse=True)
def _no_known_keys() -> None:
    known_keys.clear()


@pytest.fixture(autouse=True)
def _traffic_waits_for_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that wants to see traffic flushes it; no thread disturbs the others."""
    traffic.clear()
    monkeypatch.setattr(traffic, "_start", lambda: None)


@pytest.fixture
def customer(db: None) -> Customer:
    return CustomerFactory.create(id=123, name="Alice")


@pytest.fixture
def closed(customer: Customer, database_clock: DatabaseClock) -> Bill:
    """A closed bill with a record and daily usage; an open one follows it."""
    database_clock.set("2026-11-10T12:00:00Z")
    record([FactFactory.build(request_id="closed")], reported_by_id=None)
    bill: Bill = Bill.objects.get()
    close(bill, by="Sam")
    database_clock.set("2026-11-11T12:00:00Z")
    record([FactFactory.build(request_id="open")], reported_by_id=None)
    return bill


@pytest.fixture
def opened(closed: Bill) -> Bill:
    """The open bill that follows the closed one."""
    bill: Bill = Bill.objects.open().get()
    return bill


@pytest.fixture
def api_key(db: None) -> str:
    """The text of a live API key."""
    return ApiKey.objects.issue(name="tests")[1]


@pytest.fixture
def admin_client(admin_user: User) -> Client:
    """The browser of a superuser; pytest-django's own logs in at length."""
    return logged_in(admin_user)


Post = Callable[..., Any]


@pytest.fixture
def post(client: Client, api_key: str) -> Post:
    """Post a value as JSON, or bytes as they are, to the one endpoint."""

    def post(body: Any, **headers: str) -> Any:
        return client.post(
            "/api/v1/usage/",
            body,
            content_type="application/json",
            headers={"Authorization": f"Bearer {api_key}", **headers},
        )

    return post


@pytest.fixture
def guards_lifted_for_teardown(transactional_db: None) -> Iterator[None]:
    """A database whose transactions are real; only its emptying afterwards finds no guards."""
    yield
    empty = connection.ops.execute_sql_flush

    def empty_once(sql_list: Iterable[str]) -> None:
        del connection.ops.execute_sql_flush
        of_roles = "|".join(KEPT_TABLES)
        sql_list = [re.sub(rf'"({of_roles})", |, "({of_roles})"', "", sql) for sql in sql_list]
        sql_list = [sql for sql in sql_list if not re.search(rf'"({of_roles})"', sql)]
        if connection.vendor == "sqlite":
            triggers.remove(connection)
            empty(sql_list)
            triggers.install(connection)
        else:
            empty(["SET usage.truncate_allowed = 'on'", *sql_list, "RESET usage.truncate_allowed"])

    connection.ops.execute_sql_flush = empty_once  # type: ignore[method-assign]


def made_once(
    name: str,
    make: Callable[[Path], object],
    tmp_path_factory: pytest.TempPathFactory,
    django_db_blocker: DjangoDbBlocker,
) -> Path:
    """Return a file or a folder that the processes of a run share; the first one makes it."""
    basis = tmp_path_factory.getbasetemp()
    made = (basis.parent if "PYTEST_XDIST_WORKER" in os.environ else basis) / name
    with Path(f"{made}.lock").open("w") as lock, django_db_blocker.unblock():
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            unfinished = made.with_name(f"unfinished-{name}")
            make(unfinished)
            unfinished.rename(made)
    return made


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker) -> Books:
    """A migrated database without a row of usage and without a key."""
    on_postgresql = connection.vendor == "postgresql"

    def migrate(file: Path) -> None:
        url = create_database(MIGRATED) if on_postgresql else f"sqlite:///{file}"
        with default_database(url):
            call_command("migrate", verbosity=0)
        file.touch()

    file = made_once("migrated", migrate, tmp_path_factory, django_db_blocker)
    return Books(database_url(MIGRATED) if on_postgresql else f"sqlite:///{file}", key="")


def pytest_sessionfinish() -> None:
    """Drop the migrated database once the last process of a run has ended."""
    if "PYTEST_XDIST_WORKER" not in os.environ and connection.vendor == "postgresql":
        with suppress(psycopg2.OperationalError):  # of a run that only lists its tests
            drop_database(MIGRATED)


@pytest.fixture(scope="session")
def cluster_to_copy(
    tmp_path_factory: pytest.TempPathFactory, django_db_blocker: DjangoDbBlocker
) -> Path:
    return made_once("cluster", cluster.make, tmp_path_factory, django_db_blocker)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings: None, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Give pytest-django a migrated database, so that not every process migrates its own."""
    migrated: Books = request.getfixturevalue("migrated")
    if connection.vendor == "postgresql":
        connection.settings_dict["TEST"]["TEMPLATE"] = migrated.path
        yield
        return
    creation: Any = connection.creation
    with closing(sqlite3.connect(creation._get_test_db_name(), uri=True)) as memory:
        with closing(sqlite3.connect(migrated.path)) as source:
            source.backup(memory)
        yield


@pytest.fixture(scope="session")
def books_to_copy(migrated: Books, django_db_blocker: DjangoDbBlocker) -> Iterator[Books]:
    with django_db_blocker.unblock(), copied(migrated) as books:
        filled_books = filled(books.url)
        django_db_blocker.block()
        yield filled_books
        django_db_blocker.restore()


@pytest.fixture
def books(books_to_copy: Books) -> Iterator[Books]:
    """A database of the test's own, on a real server or in a real file, that nothing rolls back."""
    with copied(books_to_copy) as books:
        yield books


@pytest.fixture
def own_books(books: Books, django_db_blocker: DjangoDbBlocker) -> Iterator[Books]:
    """The same, and this process works on it too."""
    with django_db_blocker.unblock(), default_database(books.url):
        yield books


@pytest.fixture(scope="module")
def live_service(books_to_copy: Books) -> Iterator[Service]:
    """The running service, for the tests of one file, each of which takes customers of its own."""
    with copied(books_to_copy) as books, Service(books) as service:
        yield service
