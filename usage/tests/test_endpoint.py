"""The endpoint is answered ahead of Django's handler, and just as Django's handler answers it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.dispatch import Signal
from django.test import RequestFactory
from pytest_django.fixtures import Settings

from billing_project.endpoint import Application, LenientRequest
from usage.ledger import record as recording
from usage.models import Customer
from usage.tests.factories import usage_body

pytestmark = pytest.mark.django_db
BODY = usage_body(request_id="same", customer_id=123)
Answering = Callable[..., Any]
Answer = tuple[str, list[tuple[str, str]], bytes]


def answer(application: Answering, body: Any, **environ: str) -> Answer:
    """Return the status, the headers in order of their names, and the body."""
    request = RequestFactory(SERVER_NAME="127.0.0.1").post(
        "/api/v1/usage/",
        body if isinstance(body, bytes) else json.dumps(body),
        content_type="application/json",
        HTTP_X_REQUEST_ID="this-one",
    )
    said: list[Any] = []
    response = application({**request.environ, **environ}, lambda *those: said.extend(those))
    content = b"".join(response)
    response.close()
    status, headers = said
    return status, sorted(headers), content


@pytest.fixture
def applications(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], tuple[Answering, Answering]]:
    def applications() -> tuple[Answering, Answering]:
        django = WSGIHandler()
        django.request_class = LenientRequest
        return Application().answer_endpoint, django

    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    # They would close the connection with the test's transaction, as Django's test client knows.
    monkeypatch.setattr("django.core.handlers.wsgi.signals.request_started", Signal())
    monkeypatch.setattr("django.http.response.signals.request_finished", Signal())
    return applications


@pytest.fixture
def alike(
    applications: Callable[[], tuple[Answering, Answering]], customer: Customer, api_key: str
) -> Callable[..., Answer]:
    def alike(body: Any, **environ: str) -> Answer:
        ours, django = applications()
        environ = {"HTTP_AUTHORIZATION": f"Bearer {api_key}", **environ}
        answer(django, BODY, **environ)  # so that both see a replay
        first = answer(ours, body, **environ)
        assert first == answer(django, body, **environ)
        return first

    return alike


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (BODY, "200 OK"),
        ([BODY, BODY], "207 Multi-Status"),
        (BODY | {"units_consumed": 7}, "409 Conflict"),
        (BODY | {"request_id": "other", "customer_id": 404}, "404 Not Found"),
        ({}, "400 Bad Request"),
        (b"{not json", "400 Bad Request"),
        ([{}] * 1001, "413 Request Entity Too Large"),
    ],
)
def test_each_body(alike: Callable[..., Answer], body: Any, status: str) -> None:
    assert alike(body)[0] == status


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"HTTP_AUTHORIZATION": "Bearer nonsense"}, "401 Unauthorized"),
        ({"HTTP_HOST": "elsewhere.example"}, "400 Bad Request"),
        ({"CONTENT_TYPE": "text/plain"}, "415 Unsupported Media Type"),
        ({"HTTP_IDEMPOTENCY_KEY": "another"}, "400 Bad Request"),
    ],
)
def test_each_header(alike: Callable[..., Answer], environ: dict[str, str], status: str) -> None:
    assert alike(BODY, **environ)[0] == status


def test_a_plain_request_is_sent_to_https(alike: Callable[..., Answer], settings: Settings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_HSTS_SECONDS = 60

    assert alike(BODY)[0] == "301 Moved Permanently"
    secure = alike(BODY, **{"wsgi.url_scheme": "https"})
    assert secure[0] == "200 OK"
    assert ("Strict-Transport-Security", "max-age=60") in secure[1]


def test_a_crash(alike: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(recording, "record", crash)

    status, headers, body = alike(BODY)

    assert status == "500 Internal Server Error"
    assert json.loads(body)["status"] == 500
    assert ("Content-Type", "application/problem+json") in headers


def test_djangos_handler_is_not_asked(
    applications: Callable[[], tuple[Answering, Answering]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = applications()
    monkeypatch.delattr("django.core.handlers.wsgi.WSGIHandler.__call__")

    assert answer(ours, BODY)[0] == "401 Unauthorized"
