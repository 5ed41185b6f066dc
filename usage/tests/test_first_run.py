"""`manage.py first_run` fills an empty database and never touches one that is not."""

import io
import re

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.http import HttpRequest
from pytest_django import Settings

from usage.models import ApiKey, Customer

pytestmark = pytest.mark.django_db
ADDRESS = "http://127.0.0.1:8001"


@pytest.fixture(autouse=True)
def debug(settings: Settings) -> None:
    settings.DEBUG = True


def first_run() -> str:
    output = io.StringIO()
    call_command("first_run", address=ADDRESS, stdout=output)
    return output.getvalue()


def test_a_new_service_has_the_samples() -> None:
    first_run()
    assert set(Customer.objects.values_list("id", "name")) == {
        (123, "Alice"),
        (456, "Bob"),
        (789, "Taylor"),
    }


def test_the_login_it_prints_lets_staff_in() -> None:
    login = re.search(
        rf"^Staff log in at {ADDRESS}/admin/ as (\S+) with the password (\S+)$",
        first_run(),
        re.MULTILINE,
    )
    assert login
    user = authenticate(HttpRequest(), username=login[1], password=login[2])
    assert isinstance(user, User)
    assert user.is_staff
    assert user.is_superuser


def test_the_key_it_prints_lets_a_service_in() -> None:
    key = re.search(r"with the API key (\S+)\n", first_run())
    assert key
    assert ApiKey.objects.identify(key[1])


def test_a_second_run_tells_and_makes_nothing() -> None:
    first_run()
    assert first_run() == f"Serving on {ADDRESS}\n"
    assert User.objects.count() == ApiKey.objects.count() == 1


def test_a_service_with_customers_gets_no_samples() -> None:
    Customer.objects.create(id=1, name="Carol")
    assert "password" in first_run()
    assert Customer.objects.count() == 1


def test_a_service_with_staff_gets_no_login_and_no_key() -> None:
    User.objects.create_user("eve", is_staff=True)
    assert first_run() == f"Serving on {ADDRESS}\n"
    assert not ApiKey.objects.exists()


def test_a_run_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ApiKey.objects, "issue", None)
    with pytest.raises(TypeError):
        first_run()
    assert not User.objects.exists()
    assert not Customer.objects.exists()


def test_a_service_that_others_can_reach_is_refused(settings: Settings) -> None:
    settings.DEBUG = False
    with pytest.raises(CommandError, match="use createsuperuser and create_api_key instead"):
        first_run()
    assert not User.objects.exists()
