"""Without a valid API key nothing changes and nothing is learnt."""

import time
from typing import Any

import pytest
from django.db import connection, connections
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from usage.api.authentication import known_keys
from usage.models import ApiKey, Customer, UsageRecord
from usage.tests.books import Books
from usage.tests.conftest import Post
from usage.tests.factories import usage_body
from usage.tests.guarded import on_postgresql

pytestmark = pytest.mark.django_db


def attempt(client: Client, authorization: str | None, body: Any = b"{not json") -> Any:
    headers = {} if authorization is None else {"Authorization": authorization}
    return client.post("/api/v1/usage/", body, content_type="application/json", headers=headers)


@pytest.fixture
def revoked(db: None) -> str:
    key, text = ApiKey.objects.issue(name="gone")
    key.revoke()
    return text


def test_every_refusal_is_the_same(client: Client, api_key: str, revoked: str) -> None:
    last = "0" if api_key[-1] != "0" else "1"
    refused = [
        attempt(client, authorization)
        for authorization in (
            None,
            "",
            "Bearer",
            "Bearer ",
            f"Basic {api_key}",
            f"Token {api_key}",
            "Bearer nonsense",
            "Bearer ü",
            f"Bearer {api_key[:-1]}{last}",
            f"Bearer {revoked}",
            f"Bearer {api_key} {api_key}",
        )
    ]

    assert {response.status_code for response in refused} == {401}
    assert {response["WWW-Authenticate"] for response in refused} == {"Bearer"}
    assert {response.json()["code"] for response in refused} == {"not_authenticated"}
    assert len({response.content for response in refused}) == 1


def test_the_scheme_is_read_in_any_case(client: Client, customer: Customer, api_key: str) -> None:
    response = attempt(client, f"bearer  {api_key}", usage_body())

    assert response.status_code == 201


def test_a_typing_error_costs_no_query(
    client: Client, api_key: str, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    # Two neighbours change places; the same digit twice would be no error.
    at = next(at for at in range(12, len(api_key)) if api_key[at] != api_key[at + 1])
    swapped = api_key[:at] + api_key[at + 1] + api_key[at] + api_key[at + 2 :]

    with django_assert_num_queries(0):
        assert attempt(client, f"Bearer {swapped}").status_code == 401


def test_a_busy_team_costs_no_query_for_its_key(
    customer: Customer,
    post: Post,
    django_assert_num_queries: DjangoAssertNumQueries,
    client: Client,
    api_key: str,
) -> None:
    post(usage_body())

    with django_assert_num_queries(0):
        assert attempt(client, f"Bearer {api_key}").status_code == 400


def test_a_revoked_key_is_refused_within_a_second(
    customer: Customer, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert post(usage_body()).status_code == 201
    ApiKey.objects.get().revoke()
    monkeypatch.setattr(known_keys, "clock", lambda: time.monotonic() + 1)

    assert post(usage_body()).status_code == 401


def test_several_keys_of_one_name_live_side_by_side(client: Client, customer: Customer) -> None:
    old, old_text = ApiKey.objects.issue(name="web")
    _, new_text = ApiKey.objects.issue(name="web")
    assert attempt(client, f"Bearer {old_text}", usage_body()).status_code == 201

    old.revoke()
    known_keys.clear()

    assert attempt(client, f"Bearer {old_text}", usage_body()).status_code == 401
    assert attempt(client, f"Bearer {new_text}", usage_body()).status_code == 201


def test_a_record_remembers_the_key_that_reported_it(customer: Customer, post: Post) -> None:
    post(usage_body())

    assert UsageRecord.objects.get().reported_by == ApiKey.objects.get()


def test_only_a_digest_and_a_prefix_are_kept_of_a_key() -> None:
    key, text = ApiKey.objects.issue(name="web")

    row = ApiKey.objects.values().get()
    assert text not in map(str, row.values())
    assert len(row["digest"]) == 64
    assert key.prefix in text
    assert len(text.rpartition("_")[2]) >= 64  # 256 random bits in hexadecimal digits


@on_postgresql
def test_a_connection_is_not_asked_whether_it_lives(
    own_books: Books, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempt(client, f"Bearer {own_books.key}").status_code == 400
    known_keys.clear()
    monkeypatch.setattr(
        type(connections["default"]), "is_usable", lambda _: pytest.fail("It was asked.")
    )

    assert attempt(client, f"Bearer {own_books.key}").status_code == 400


@on_postgresql
def test_a_connection_that_has_died_is_replaced(own_books: Books, client: Client) -> None:
    assert attempt(client, f"Bearer {own_books.key}").status_code == 400
    known_keys.clear()
    backend_pid = connection.connection.info.backend_pid
    own_books.rows(f"SELECT pg_terminate_backend({backend_pid}, 10000)")

    assert attempt(client, f"Bearer {own_books.key}").status_code == 400
    assert connection.connection.info.backend_pid != backend_pid
