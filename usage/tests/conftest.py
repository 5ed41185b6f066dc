"""What the tests of the service share."""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from usage import guards, transactions
from usage.api.authentication import known_keys
from usage.models import ApiKey, Customer
from usage.tests.factories import CustomerFactory


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


@pytest.fixture
def customer(db: None) -> Customer:
    return CustomerFactory.create(id=123, name="Alice")


@pytest.fixture
def api_key(db: None) -> str:
    """The text of a live API key."""
    return ApiKey.objects.issue(name="tests")[1]


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
        if connection.vendor == "sqlite":
            guards.remove(connection)
            empty(sql_list)
            guards.install(connection)
        else:
            empty(["SET usage.truncate_allowed = 'on'", *sql_list, "RESET usage.truncate_allowed"])

    connection.ops.execute_sql_flush = empty_once  # type: ignore[method-assign]
