"""API keys: issued once, kept only as a digest, revoked for ever."""

import hashlib

import pytest
from django.core.exceptions import ValidationError
from pytest_django import DjangoAssertNumQueries

from usage.models import ApiKey
from usage.tests.conftest import DatabaseClock

pytestmark = pytest.mark.django_db


def test_a_key_is_kept_as_a_digest_and_a_public_prefix_alone() -> None:
    api_key, key = ApiKey.objects.issue(name="cdn")

    stored = ApiKey.objects.values().get()
    assert stored["digest"] == hashlib.sha256(key.encode()).hexdigest()
    assert key.startswith(f"ub_{stored['prefix']}_")
    assert not any(key in str(value) for value in stored.values())
    assert str(api_key) == f"cdn (ub_{api_key.prefix}…)"


def test_a_key_carries_256_random_bits_and_no_two_are_alike() -> None:
    keys = {ApiKey.objects.issue(name="cdn")[1] for _ in range(20)}
    assert len(keys) == 20
    assert all(len(key.split("_")[2]) == 64 + 8 for key in keys)


def test_a_live_key_is_identified() -> None:
    api_key, key = ApiKey.objects.issue(name="cdn")
    assert ApiKey.objects.identify(key) == api_key


def test_a_mistyped_key_is_refused_without_a_query(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    _, key = ApiKey.objects.issue(name="cdn")
    for at in range(len(key)):
        wrong = "0" if key[at] != "0" else "1"
        with django_assert_num_queries(0):
            assert ApiKey.objects.identify(key[:at] + wrong + key[at + 1 :]) is None


@pytest.mark.parametrize("key", ["", "ub_", "ü" * 80, "x" * 10_000, "ub_12345678_abc"])
def test_text_that_is_not_a_key_is_refused_without_a_query(
    key: str, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(0):
        assert ApiKey.objects.identify(key) is None


def test_a_revoked_key_is_refused_and_stays_revoked(database_clock: DatabaseClock) -> None:
    api_key, key = ApiKey.objects.issue(name="cdn")
    other = ApiKey.objects.issue(name="cdn")[1]
    now = database_clock.set("2099-01-01T00:00:00Z")

    assert api_key.revoke()
    assert (api_key.is_revoked, api_key.revoked_at) == (True, now)
    database_clock.set("2099-01-02T00:00:00Z")
    assert not api_key.revoke()
    assert api_key.revoked_at == now
    assert ApiKey.objects.identify(key) is None
    assert ApiKey.objects.identify(other) is not None


def test_a_key_is_not_revoked_before_it_was_made(database_clock: DatabaseClock) -> None:
    api_key, _ = ApiKey.objects.issue(name="cdn")
    database_clock.set("2020-01-01T00:00:00Z")  # another machine's clock is behind

    assert api_key.revoke()
    assert api_key.revoked_at == api_key.created_at


def test_a_key_without_a_name_is_not_made() -> None:
    with pytest.raises(ValidationError):
        ApiKey.objects.issue(name="")
    assert not ApiKey.objects.exists()
