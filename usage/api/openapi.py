"""The endpoint as OpenAPI describes it: both forms of body, and every answer."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    Direction,
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    PolymorphicProxySerializer,
    extend_schema,
)
from rest_framework import serializers

from usage.api.problems import CONTENT_TYPE
from usage.api.serializers import MOST_RECORDS, UsageSerializer, camel_case

_EXACT = r"^-?[0-9]+(\.[0-9]*[1-9])?$"
_INSTANT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"


class BillReferenceSerializer(serializers.Serializer[Any]):
    """The bill that the usage landed on."""

    id = serializers.IntegerField()
    month = serializers.RegexField(r"^\d{4}-\d\d$", help_text="In the billing time zone.")


class RecordSerializer(serializers.Serializer[Any]):
    """A usage record as it is stored; the same bytes for the first answer and for every replay."""

    request_id = serializers.CharField()
    customer_id = serializers.IntegerField()
    service = serializers.CharField()
    units_consumed = serializers.RegexField(_EXACT)
    price_per_unit = serializers.RegexField(_EXACT)
    amount = serializers.RegexField(_EXACT, help_text="Units × price, digit for digit.")
    occurred_at = serializers.RegexField(_INSTANT, help_text="UTC, to the millisecond.")
    recorded_at = serializers.RegexField(_INSTANT, help_text="UTC, to the millisecond.")
    bill = BillReferenceSerializer()
    late = serializers.BooleanField(help_text="The usage occurred before its bill's period began.")


class ProblemFieldSerializer(serializers.Serializer[Any]):
    """What is wrong with one field."""

    field = serializers.CharField()
    code = serializers.CharField()
    detail = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """Problem details for HTTP APIs (RFC 9457)."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField(min_value=400, max_value=599)
    detail = serializers.CharField()
    code = serializers.CharField()
    errors = ProblemFieldSerializer(many=True, required=False)  # type: ignore[assignment]  # a field called as DRF's own attribute
    conflicting_fields = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="With 409: names, never values."
    )


class ResultSerializer(serializers.Serializer[Any]):
    """What became of one record of a batch: `record` with 200 and 201, else `error`."""

    status = serializers.IntegerField()
    request_id = serializers.CharField(allow_null=True)
    record = RecordSerializer(required=False)
    error = ProblemSerializer(required=False)


class SummarySerializer(serializers.Serializer[Any]):
    """How many records of a batch were created, replayed and rejected."""

    created = serializers.IntegerField()
    replayed = serializers.IntegerField()
    rejected = serializers.IntegerField()


class BatchAnswerSerializer(serializers.Serializer[Any]):
    """One result for each record, in the order sent."""

    results = ResultSerializer(many=True)
    summary = SummarySerializer()


class CamelCaseUsageSerializer(UsageSerializer):
    """The same fact, its fields named as in the company's sample data.

    A record may have some of its fields in one spelling and some in the other.
    """


class BatchSerializer(serializers.Serializer[Any]):
    """Records, each answered in its place."""


class UsageExtension(OpenApiSerializerExtension):
    """A usage record has no fields but its own."""

    target_class = UsageSerializer

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        """Return the schema of the fields in their own spelling."""
        schema = auto_schema._map_serializer(  # noqa: SLF001 - what the library documents here
            self.target, direction, bypass_extensions=True
        )
        return {**schema, "additionalProperties": False}


class CamelCaseUsageExtension(UsageExtension):
    """The same in the other spelling."""

    target_class = CamelCaseUsageSerializer

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        """Return the schema with every name in camel case."""
        schema = super().map_serializer(auto_schema, direction)
        properties = {camel_case(name): field for name, field in schema["properties"].items()}
        required = [camel_case(name) for name in schema["required"]]
        return {**schema, "properties": properties, "required": required}


class BatchExtension(OpenApiSerializerExtension):
    """A batch is an array that is read item by item."""

    target_class = BatchSerializer

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        """Return the schema of the array, which no item makes invalid."""
        records = [
            auto_schema.resolve_serializer(spelling, direction).ref
            for spelling in (UsageSerializer, CamelCaseUsageSerializer)
        ]
        anything = {"description": "Anything else is rejected in its place, and stops no other."}
        items = {"anyOf": [*records, anything]}
        return {"type": "array", "items": items, "minItems": 1, "maxItems": MOST_RECORDS}


class ApiKeyExtension(OpenApiAuthenticationExtension):
    """API keys are shown as bearer tokens."""

    target_class = "usage.api.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        """Return the scheme."""
        return {"type": "http", "scheme": "bearer", "description": "An API key of this service."}


class UsageSchema(AutoSchema):
    """An operation that does nothing without a body."""

    def _get_request_body(self, direction: Direction = "request") -> Any:
        body = super()._get_request_body(direction)  # type: ignore[no-untyped-call]
        return {**body, "required": True}


def _problem(description: str) -> OpenApiResponse:
    return OpenApiResponse(ProblemSerializer, description=description)


def _header(name: str, description: str, *statuses: int) -> OpenApiParameter:
    return OpenApiParameter(
        name, OpenApiTypes.STR, "header", description=description, response=list(statuses) or True
    )


_EXAMPLE = {
    "request_id": "web:2026-11-22:17",
    "customer_id": 123,
    "service": "Database Hosting",
    "units_consumed": 58,
    "price_per_unit": "0.05",
}

describe_usage = extend_schema(
    operation_id="record_usage",
    summary="Record usage on the customers' current bills, each fact exactly once",
    request=PolymorphicProxySerializer(
        component_name="UsageBody",
        serializers=[UsageSerializer, CamelCaseUsageSerializer, BatchSerializer],
        resource_type_field_name=None,
    ),
    parameters=[
        _header("X-Request-ID", "The caller's if it is safe to log, else a new one."),
        _header("Idempotent-Replayed", "`true`: this fact had been recorded before.", 200),
        _header("WWW-Authenticate", "`Bearer`", 401),
        _header("Allow", "`POST`", 405),
        _header("Retry-After", "Seconds to wait before sending the same request again.", 503),
    ],
    responses={
        201: OpenApiResponse(RecordSerializer, description="Recorded."),
        200: OpenApiResponse(RecordSerializer, description="Replayed: recorded before, once."),
        207: OpenApiResponse(BatchAnswerSerializer, description="The batch, record by record."),
        (400, CONTENT_TYPE): _problem("Malformed (`invalid_json`) or not valid."),
        (401, CONTENT_TYPE): _problem("No live API key."),
        (404, CONTENT_TYPE): _problem("There is no such customer (`unknown_customer`)."),
        (405, CONTENT_TYPE): _problem("Usage is reported by POST."),
        (409, CONTENT_TYPE): _problem("The request_id is stored with other content."),
        (413, CONTENT_TYPE): _problem("More than 2 MiB, or more than 1000 records."),
        (415, CONTENT_TYPE): _problem("Not application/json."),
        (500, CONTENT_TYPE): _problem("The service failed: send the same request again later."),
        (503, CONTENT_TYPE): _problem("Send the same request again: it is recorded once."),
    },
    examples=[
        OpenApiExample("One record", _EXAMPLE, request_only=True),
        OpenApiExample("A batch", [_EXAMPLE], request_only=True),
    ],
)
