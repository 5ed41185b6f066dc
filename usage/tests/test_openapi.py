"""The OpenAPI description holds for real answers, and generators make right clients from it."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.test import Client
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types
from schemathesis import Case

from billing_project.wsgi import application
from usage.api.serializers import camel_case
from usage.models import Customer
from usage.tests.conftest import Post
from usage.tests.factories import usage_body

# Other tests measure this code.
pytestmark = [pytest.mark.django_db, pytest.mark.once, pytest.mark.no_cover]


def with_what_words_say(described: dict[str, Any]) -> dict[str, Any]:
    """Add to the description as a schema the parts that it has only in words, for generators.

    Both addresses take one record as well as an array, whose items may be anything; fields may be
    in camel case, decimals numbers, and a customer's id text.
    """
    described = copy.deepcopy(described)
    usage = described["components"]["schemas"]["Usage"]
    properties = usage["properties"]
    for name, minimum, limit in (
        ("units_consumed", "exclusiveMinimum", 10**12),
        ("price_per_unit", "minimum", 10**6),
    ):
        number = {"type": "number", minimum: 0, "exclusiveMaximum": limit}
        properties[name] = {"oneOf": [properties[name], number]}
    digits = {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}
    properties["customer_id"] = {"oneOf": [properties["customer_id"], digits]}
    camel = {
        **usage,
        "properties": {camel_case(name): field for name, field in properties.items()},
        "required": [camel_case(name) for name in usage["required"]],
    }
    # Either spelling as a whole; a mixture is tested elsewhere.
    items: dict[str, Any] = {"anyOf": [usage, camel, {}]}
    batch = {"type": "array", "items": items, "minItems": 1, "maxItems": 1000}
    responses = {
        status: response
        for path in described["paths"].values()
        if "post" in path
        for status, response in path["post"]["responses"].items()
    }
    for path in described["paths"].values():
        body = path["post"]["requestBody"]["content"]["application/json"]
        body |= {"schema": {"oneOf": [usage, camel, batch]}}
        path["post"]["responses"] = responses
    return described


schema = schemathesis.openapi.from_dict(
    with_what_words_say(SchemaGenerator().get_schema(request=None, public=True))
)
schema.app = application


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
    max_examples=settings().max_examples * 4 // 5,
    deadline=None,
    derandomize=True,
    # One database serves all examples: the description must hold whatever is stored.
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
    return dict(client.get("/api/schema/?format=json").json())


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a description, however deep, apart from examples."""
    if isinstance(value, dict):
        yield value
        for name, inner in value.items():
            if name not in {"example", "examples"}:
                yield from parts(inner)
    if isinstance(value, list):
        for inner in value:
            yield from parts(inner)


def types(part: dict[str, Any]) -> list[str]:
    given = part.get("type", [])
    return given if isinstance(given, list) else [given]


def test_every_integer_has_a_format_and_nothing_is_a_float(described: dict[str, Any]) -> None:
    kinds = [part for part in parts(described) if isinstance(part.get("type"), str | list)]

    assert [part for part in kinds if "number" in types(part)] == []
    integers = [part for part in kinds if "integer" in types(part)]
    assert len(integers) >= 8
    assert {part.get("format") for part in integers} == {"int32", "int64"}


def test_ids_have_64_bits_in_requests_and_answers(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    ids = [
        schemas["Usage"]["properties"]["customer_id"],
        schemas["UsageRecord"]["properties"]["customer_id"],
        schemas["BillReference"]["properties"]["id"],
    ]

    assert [id_["format"] for id_ in ids] == ["int64"] * 3


def test_patterns_need_neither_lookaround_nor_a_look_back(described: dict[str, Any]) -> None:
    patterns = [part["pattern"] for part in parts(described) if "pattern" in part]

    assert len(patterns) >= 8
    beyond_re2 = re.compile(r"\(\?(?!:)|\\[1-9]|[*+?}]\+")
    assert [pattern for pattern in patterns if beyond_re2.search(pattern)] == []


def test_a_body_and_an_answer_each_have_one_type(described: dict[str, Any]) -> None:
    one_of_many = {"oneOf", "anyOf", "allOf", "not"}

    assert described["paths"]
    assert [part for part in parts(described) if one_of_many & part.keys()] == []


def test_one_record_and_an_array_are_operations_of_their_own(described: dict[str, Any]) -> None:
    bodies = {
        path["post"]["operationId"]: path["post"]["requestBody"]["content"]
        for path in described["paths"].values()
    }

    assert bodies.keys() == {"record_usage", "record_usage_batch"}
    for operation, schema in (("record_usage", "Usage"), ("record_usage_batch", "Batch")):
        body = bodies[operation]["application/json"]["schema"]
        assert body == {"$ref": f"#/components/schemas/{schema}"}
    assert described["components"]["schemas"]["Usage"]["type"] == "object"


def test_every_schema_has_a_title_and_an_example_that_it_allows(described: dict[str, Any]) -> None:
    components = described["components"]

    for name, schema in components["schemas"].items():
        assert schema["title"], name
        reference = {"$ref": f"#/components/schemas/{name}", "components": components}
        for example in schema["examples"]:
            Draft202012Validator(reference).validate(example)


def test_wherever_a_batch_is_described_the_rejected_are_looked_at(
    described: dict[str, Any],
) -> None:
    batch = described["paths"]["/api/v1/usage"]["post"]

    assert "summary.rejected" in batch["description"]
    assert "summary.rejected" in batch["responses"]["207"]["description"]


def test_a_conflict_tells_a_retry_to_stop(described: dict[str, Any]) -> None:
    conflict = described["paths"]["/api/v1/usage/"]["post"]["responses"]["409"]["description"]

    assert "If this is a retry, stop: it is recorded." in conflict


@pytest.mark.parametrize(
    "number", [0.05, 0.1, 4.15, 1, 1e5, "0.05", "000.100", "58.000000000"], ids=repr
)
def test_what_the_service_takes_is_valid_by_the_description(
    customer: Customer, post: Post, described: dict[str, Any], number: Any
) -> None:
    body = usage_body(units_consumed=number, price_per_unit=number)
    components = with_what_words_say(described)["components"]
    schema = {"$ref": "#/components/schemas/Usage", "components": components}

    assert Draft202012Validator(schema).is_valid(body)
    assert post(body).status_code == 201
