"""With the database away staff see what is wrong, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.db import OperationalError, connection
from django.db.backends.utils import CursorWrapper
from django.test import Client

from usage.database import deadline
from usage.database.deadline import CircuitOpen, circuit
from usage.database.postgresql import waiting
from usage.database.postgresql.waiting import GivenUp
from usage.models.daily_usage import DailyUsageQuerySet
from usage.tests.books import Books
from usage.tests.guarded import on_postgresql

pytestmark = [pytest.mark.django_db, pytest.mark.measured]


def away(*_: Any, **__: Any) -> None:
    raise OperationalError("No answer.") from GivenUp("No answer.")


def assert_told(response: Any) -> None:
    page = response.content.decode()
    assert response.status_code == 503
    assert response["Retry-After"]
    assert "The database does not answer" in page
    assert "Nothing that was recorded is lost" in page


@pytest.mark.parametrize("path", ["/admin/", "/admin/usage/bill/", "/admin/usage/bill/1/change/"])
def test_a_page_says_that_nothing_is_lost(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(CursorWrapper, "execute", away)

    assert_told(admin_client.get(path))


def test_a_login_that_cannot_be_kept_says_so_too(
    client: Client, monkeypatch: pytest.MonkeyPatch, admin_user: Any
) -> None:
    monkeypatch.setattr(SessionStore, "save", away)
    client.raise_request_exception = False

    response = client.post("/admin/login/", {"username": "admin", "password": "password"})

    assert_told(response)


def test_while_another_request_tries_a_page_answers_at_once(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise CircuitOpen("The database has not answered for a while.")

    monkeypatch.setattr(circuit, "attempt", refuse)

    assert_told(admin_client.get("/admin/"))


def test_what_is_not_the_databases_fault_is_a_crash(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise ValueError("A bug.")

    monkeypatch.setattr(CursorWrapper, "execute", crash)
    admin_client.raise_request_exception = False

    assert admin_client.get("/admin/").status_code == 500


@pytest.fixture
def slow_sums(own_books: Books, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A member of staff whose overview needs longer than a call that is a sign of an outage."""

    def sleep(*_: Any) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(0.5)")
        return []

    monkeypatch.setattr(waiting, "SLOW_SECONDS", 0.1)
    monkeypatch.setattr(DailyUsageQuerySet, "amount_sums", sleep)
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("admin"))
    yield client
    circuit.reset()


@on_postgresql
def test_slow_sums_are_no_sign_of_an_outage(
    slow_sums: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs: list[Any] = []
    monkeypatch.setattr(circuit, "is_slow", lambda **kind: signs.append(kind))

    response = slow_sums.get("/admin/")

    assert response.status_code == 200
    assert not signs


@on_postgresql
def test_sums_that_take_all_of_a_pages_time_end_in_the_page_that_says_so(
    slow_sums: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "REQUEST_SECONDS", 0.3)

    assert_told(slow_sums.get("/admin/"))
