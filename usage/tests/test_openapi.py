"""The OpenAPI description holds for real answers."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.test import Client
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types
from schemathesis import Case

from billing_project.wsgi import application
from usage.models import Customer
from usage.tests.conftest import Post
from usage.tests.factories import usage_body

pytestmark = pytest.mark.django_db

schema = schemathesis.openapi.from_wsgi("/api/schema/?format=json", application)


@pytest.fixture
def one_connection() -> Iterator[None]:
    """Let requests through WSGI use the test's transaction, as Django's own test client does."""
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    yield
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.mark.usefixtures("one_connection", "customer")
@schema.parametrize()
@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    # One database serves all examples: whatever is stored, the description must hold.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_answer_is_as_described(case: "Case[Any]", api_key: str) -> None:
    case.call_and_validate(
        base_url="http://testserver", headers={"Authorization": f"Bearer {api_key}"}
    )


def test_the_page_loads_nothing_from_another_host(client: Client) -> None:
    page = client.get("/api/docs/").content.decode()

    assert "https://" not in page
    assert "http://" not in page


@pytest.fixture
def described(client: Client) -> dict[str, Any]:
    return dict(client.get("/api/schema/?format=json").json()["components"])


def test_both_forms_of_body_are_described(described: dict[str, Any]) -> None:
    bodies = described["schemas"]["UsageBody"]["oneOf"]
    assert [body["$ref"].rpartition("/")[2] for body in bodies] == [
        "Usage",
        "CamelCaseUsage",
        "Batch",
    ]


def test_a_batch_may_have_records_of_either_spelling(described: dict[str, Any]) -> None:
    *records, _anything = described["schemas"]["Batch"]["items"]["anyOf"]
    assert [record["$ref"].rpartition("/")[2] for record in records] == ["Usage", "CamelCaseUsage"]


@pytest.mark.parametrize(
    "number", [0.05, 0.1, 4.15, 1, 1e5, "0.05", "000.100", "58.000000000"], ids=repr
)
def test_what_the_service_takes_is_valid_by_the_description(
    customer: Customer, post: Post, described: dict[str, Any], number: Any
) -> None:
    body = usage_body(units_consumed=number, price_per_unit=number)
    schema = {"$ref": "#/components/schemas/UsageBody", "components": described}

    assert Draft202012Validator(schema).is_valid(body)
    assert post(body).status_code == 201
