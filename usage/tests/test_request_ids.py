"""Every answer carries X-Request-ID, and so does every log line of the request."""

import logging

import pytest
from django.test import Client

from billing_project.log import RequestIdFilter
from usage.ledger import record as recording
from usage.models import Customer
from usage.tests.conftest import Post
from usage.tests.factories import usage_body


@pytest.mark.parametrize("path", ["/livez", "/api/nowhere", "/admin/nowhere"])
@pytest.mark.django_db
def test_every_answer_is_named_as_the_caller_named_the_request(client: Client, path: str) -> None:
    response = client.get(path, headers={"X-Request-ID": "web-17/a"})

    assert response["X-Request-ID"] == "web-17/a"


@pytest.mark.parametrize("unsafe", ["", "a b", "a\x1b[31m", "ü", "x" * 129, "<script>"])
def test_a_name_that_is_not_safe_to_log_is_replaced(client: Client, unsafe: str) -> None:
    first = client.get("/livez", headers={"X-Request-ID": unsafe})["X-Request-ID"]
    second = client.get("/livez", headers={"X-Request-ID": unsafe})["X-Request-ID"]

    assert unsafe not in (first, second)
    assert first != second


def test_log_lines_name_the_request(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(RequestIdFilter())

    client.get("/api/nowhere", headers={"X-Request-ID": "web-17"})

    assert {record.__dict__["request_id"] for record in caplog.records} == {"web-17"}
    assert caplog.records[0].levelno == logging.WARNING


def test_a_crash_is_logged_once(
    client: Client,
    customer: Customer,
    post: Post,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delattr(recording, "record")
    client.raise_request_exception = False

    response = post(usage_body())

    assert response.status_code == 500
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.records[0].exc_info is not None
