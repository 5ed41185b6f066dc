"""Guessing a password locks the user name for that address, and for no other."""

import datetime as dt
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def accounts() -> None:
    for name in ("sam", "kim"):
        User.objects.create_user(name, password="right", is_staff=True)


def login(client: Client, password: str, *, name: str = "sam", address: str = "192.0.2.1") -> Any:
    """Fill in the login form."""
    data = {"username": name, "password": password, "next": "/admin/"}
    return client.post("/admin/login/", data, REMOTE_ADDR=address)


def guess(client: Client, times: int = 5) -> Any:
    responses = [login(client, "wrong") for _ in range(times)]
    return responses[-1]


def test_the_right_password_lets_in(client: Client) -> None:
    assert login(client, "right").status_code == 302


@pytest.mark.parametrize("forwarded", ["203.0.113.9:51234", "unknown", "[2001:db8::1]:443"])
@pytest.mark.parametrize("connection", ["127.0.0.1", ""])
def test_the_right_password_lets_in_whatever_a_proxy_says(
    client: Client, connection: str, forwarded: str
) -> None:
    data = {"username": "sam", "password": "right", "next": "/admin/"}
    headers = {"X-Forwarded-For": forwarded}

    response = client.post("/admin/login/", data, REMOTE_ADDR=connection, headers=headers)

    assert response.status_code == 302


def test_five_wrong_passwords_lock_out_even_the_right_one(client: Client) -> None:
    assert guess(client).status_code == 429
    assert login(client, "right").status_code == 429


def test_a_user_name_that_is_longer_than_any_is_refused(client: Client) -> None:
    page = login(client, "wrong", name="x" * 300)

    assert "at most 150 characters" in page.content.decode()


def test_the_lockout_page_says_how_long_it_lasts_and_who_can_unlock(client: Client) -> None:
    page = guess(client).content.decode()

    assert "15 minutes after the last attempt" in page
    assert "axes_reset_username" in page
    assert "admin/css/login.css" in page


def test_only_the_list_of_attempts_is_in_the_admin(admin_client: Client) -> None:
    statuses = {
        model: admin_client.get(f"/admin/axes/{model}/").status_code
        for model in ("accessattempt", "accesslog", "accessfailurelog")
    }

    assert statuses == {"accessattempt": 200, "accesslog": 404, "accessfailurelog": 404}


def test_four_wrong_passwords_do_not(client: Client) -> None:
    guess(client, times=4)

    assert login(client, "right").status_code == 302


def test_others_at_the_same_address_get_in(client: Client) -> None:
    guess(client)

    assert login(client, "right", name="kim").status_code == 302


def test_the_same_user_gets_in_from_elsewhere(client: Client) -> None:
    guess(client)

    assert login(client, "right", address="192.0.2.2").status_code == 302


def test_a_session_ends_after_12_hours_of_work(client: Client, time_machine: Any) -> None:
    start = dt.datetime(2026, 11, 23, 7, tzinfo=dt.UTC)
    time_machine.move_to(start, tick=False)
    login(client, "right")

    for hours, status in ((4, 200), (8, 200), (11.99, 200), (12.01, 302)):
        time_machine.move_to(start + dt.timedelta(hours=hours), tick=False)
        assert client.get("/admin/").status_code == status, hours


def test_the_lock_opens_after_a_while(client: Client, time_machine: Any) -> None:
    start = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
    time_machine.move_to(start)
    guess(client)
    time_machine.move_to(start + dt.timedelta(minutes=16))

    assert login(client, "right").status_code == 302
