"""Logs: what a line says of a request or of an act of staff, and that no caller can forge one."""

from __future__ import annotations

import io
import json
import logging

import pytest
from django.http import HttpResponse
from django.test import Client, RequestFactory
from pytest_django.fixtures import Settings

from billing_project.log import JSONFormatter, OneLineFormatter, request_id
from billing_project.observe import observe
from usage.ledger.record import record
from usage.models import Bill, Customer
from usage.tests.factories import FactFactory, usage_body

Lines = pytest.LogCaptureFixture


def lines(caplog: Lines, name: str) -> list[logging.LogRecord]:
    return [line for line in caplog.records if line.name == name]


@pytest.fixture
def observed(settings: Settings, caplog: Lines) -> Lines:
    """The log of a service that writes a line for each request."""
    settings.ACCESS_LOG = True
    settings.MIDDLEWARE = ["billing_project.observe.observe", *settings.MIDDLEWARE]
    caplog.set_level(logging.INFO)
    return caplog


def test_a_request_has_one_line_with_what_became_of_its_records(
    observed: Lines, customer: Customer, client: Client, api_key: str
) -> None:
    client.post(
        "/api/v1/usage/",
        [usage_body(), usage_body(customer_id=404)],
        content_type="application/json",
        headers={"Authorization": f"Bearer {api_key}"},
    )

    (line,) = lines(observed, "billing.access")
    assert (line.method, line.path, line.status) == ("POST", "/api/v1/usage/", 207)  # type: ignore[attr-defined]  # given as extra
    assert line.outcomes == {"created": 1, "unknown_customer": 1}  # type: ignore[attr-defined]
    assert line.client == "tests"  # type: ignore[attr-defined]
    assert api_key not in line.getMessage()


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the service's own handler writes."""
    (handler,) = [own for own in logging.getLogger().handlers if own.get_name() == "stderr"]
    monkeypatch.setattr(handler, "stream", io.StringIO())
    return handler.stream  # type: ignore[attr-defined, no-any-return]  # of a StreamHandler


def test_a_host_that_is_none_of_ours_is_told_without_a_traceback(
    stderr: io.StringIO, client: Client
) -> None:
    client.post("/api/v1/usage/", headers={"Host": "evil.example"})

    assert "Invalid HTTP_HOST header: 'evil.example'" in stderr.getvalue()
    assert "Traceback" not in stderr.getvalue()


@pytest.mark.django_db
def test_a_form_that_cannot_be_read_is_told_without_a_traceback(
    stderr: io.StringIO, client: Client
) -> None:
    client.post("/admin/login/", b"-", content_type="multipart/form-data")

    assert "Unable to parse request body" in stderr.getvalue()
    assert "Traceback" not in stderr.getvalue()


def test_an_error_of_the_service_is_told_with_its_traceback(
    stderr: io.StringIO, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.raise_request_exception = False
    monkeypatch.setattr("usage.api.authentication.ask_first", lambda _: 1 / 0)

    client.post("/api/v1/usage/", headers={"Authorization": "Bearer x"})

    assert "ZeroDivisionError" in stderr.getvalue()
    assert "Traceback" in stderr.getvalue()


def test_without_the_setting_there_is_no_line(
    caplog: Lines, customer: Customer, client: Client
) -> None:
    caplog.set_level(logging.INFO)
    client.get("/livez")

    assert not lines(caplog, "billing.access")


def test_acts_of_staff_and_customers_pages_are_always_logged(
    caplog: Lines, admin_client: Client, customer: Customer
) -> None:
    caplog.set_level(logging.INFO)
    record([FactFactory.build(customer_id=customer.pk)], reported_by_id=None)
    page = f"/admin/usage/bill/{Bill.objects.get().pk}/"

    admin_client.get(f"{page}change/")
    admin_client.post(f"{page}close/", {"reason": "secret of the customer"})
    admin_client.get("/admin/")

    said = [line.getMessage() for line in lines(caplog, "billing.staff")]
    assert [text.rpartition(" ")[0] for text in said] == [
        f"admin: GET {page}change/",
        f"admin: POST {page}close/",
    ]
    assert "secret" not in "".join(said)


def test_json_lines_are_one_line_each_with_the_fields_and_the_request(caplog: Lines) -> None:
    token = request_id.set("mine")
    try:
        line = logging.makeLogRecord(
            {"msg": 'a\nb" %s', "args": ("\u2028x",), "levelname": "INFO", "status": 201}
        )
        line.request_id = request_id.get()
        written = JSONFormatter().format(line)
    finally:
        request_id.reset(token)

    assert written.isascii()
    assert "\n" not in written
    read = json.loads(written)
    assert read["message"] == 'a\nb" \u2028x'
    assert (read["status"], read["request_id"]) == (201, "mine")
    assert read["time"].endswith("Z")


def test_a_json_line_has_the_traceback_in_a_field() -> None:
    error = ValueError("broken")
    line = logging.makeLogRecord({"msg": "failed", "exc_info": (ValueError, error, None)})

    assert json.loads(JSONFormatter().format(line))["traceback"].endswith("ValueError: broken")


@pytest.mark.django_db
def test_a_request_is_measured_when_its_answer_was_sent(observed: Lines) -> None:
    answer = observe(lambda _request: HttpResponse())(RequestFactory().get("/livez"))
    assert not lines(observed, "billing.access")

    answer.close()

    assert len(lines(observed, "billing.access")) == 1


@pytest.mark.parametrize("formatter", [JSONFormatter(), OneLineFormatter()])
def test_a_key_in_a_path_or_a_query_is_not_in_the_log(
    formatter: logging.Formatter, client: Client, caplog: Lines
) -> None:
    key = f"ub_1234abcd_{'0f' * 36}"

    client.get(f"/api/{key}?api_key=hush", headers={"X-Request-ID": key})

    (line,) = lines(caplog, "django.request")
    line.request_id = key
    written = formatter.format(line)
    assert "Not Found: /api/ub_1234abcd..." in written
    assert "0f0f" not in written
    assert "hush" not in written
