"""The OpenAPI description, written so that code generators make right clients from it.

They make a float of every number and fail on a body that is an object or an array. So decimals are
strings, every integer has a format, and one record and an array of them are two operations, at the
endpoint's two addresses. That both addresses take both, and JSON numbers too, is said in words.
"""

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
    extend_schema_field,
)
from rest_framework import serializers

from usage.api.problems import CONTENT_TYPE
from usage.api.serializers import MOST_RECORDS, UsageSerializer

_EXACT = r"^-?[0-9]+(\.[0-9]*[1-9])?$"
_INSTANT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"


@extend_schema_field({"type": "integer", "format": "int32"})
class Int32Field(serializers.IntegerField):
    """A number whose generated type has 32 bits: a status or a count."""


@extend_schema_field({"type": "integer", "format": "int64"})
class Int64Field(serializers.IntegerField):
    """A number whose generated type has 64 bits: an id."""


class BillReferenceSerializer(serializers.Serializer[Any]):
    """The bill that the usage is on."""

    id = Int64Field()
    month = serializers.RegexField(r"^\d{4}-\d\d$", help_text="In the billing time zone.")


class UsageRecordSerializer(serializers.Serializer[Any]):
    """A usage record as it is stored: the first answer and every replay have the same bytes."""

    request_id = serializers.CharField()
    customer_id = Int64Field(help_text="Up to 2⁶³−1: read it as a 64-bit integer.")
    service = serializers.CharField()
    units_consumed = serializers.RegexField(_EXACT)
    price_per_unit = serializers.RegexField(_EXACT)
    amount = serializers.RegexField(_EXACT, help_text="Units × price, digit for digit.")
    occurred_at = serializers.RegexField(_INSTANT, help_text="UTC, to the millisecond.")
    recorded_at = serializers.RegexField(_INSTANT, help_text="UTC, to the millisecond.")
    bill = BillReferenceSerializer()
    late = serializers.BooleanField(help_text="The usage occurred before its bill's period began.")


class InvalidFieldSerializer(serializers.Serializer[Any]):
    """A field, and why it is not valid."""

    field = serializers.CharField()
    code = serializers.CharField()
    detail = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """Problem details for HTTP APIs (RFC 9457)."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = Int32Field()
    detail = serializers.CharField()
    code = serializers.CharField()
    errors = InvalidFieldSerializer(many=True, required=False)  # type: ignore[assignment]  # a field called as DRF's own attribute
    conflicting_fields = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="With 409: names, never values."
    )


class ResultSerializer(serializers.Serializer[Any]):
    """The result of one record of a batch: `record` with 200 and 201, else `error`."""

    status = Int32Field()
    request_id = serializers.CharField(allow_null=True)
    record = UsageRecordSerializer(required=False)
    error = ProblemSerializer(required=False)


class SummarySerializer(serializers.Serializer[Any]):
    """How many records of a batch were created, replayed and rejected."""

    created = Int32Field()
    replayed = Int32Field()
    rejected = Int32Field(help_text="If this is not 0, look at each result's `error`.")


class BatchAnswerSerializer(serializers.Serializer[Any]):
    """One result for each record, in the order sent."""

    results = ResultSerializer(many=True)
    summary = SummarySerializer()


class BatchSerializer(serializers.Serializer[Any]):
    """Up to 1000 records. One that is not valid is rejected in its place, and stops no other."""


_USAGE = {
    "request_id": "web:2026-11-22:17",
    "customer_id": 123,
    "service": "Database Hosting",
    "units_consumed": "58",
    "price_per_unit": "0.05",
}
_BILL = {"id": 3, "month": "2026-11"}
_RECORD = {
    **_USAGE,
    "amount": "2.9",
    "occurred_at": "2026-11-22T10:00:00.000Z",
    "recorded_at": "2026-11-22T10:00:01.234Z",
    "bill": _BILL,
    "late": False,
}
_INVALID_FIELD = {
    "field": "units_consumed",
    "code": "min_value",
    "detail": "Units consumed must be more than 0.",
}
_PROBLEM = {
    "type": "urn:usage-billing:problem:validation_error",
    "title": "The usage record is not valid",
    "status": 400,
    "detail": "units_consumed: Units consumed must be more than 0.",
    "code": "validation_error",
    "errors": [_INVALID_FIELD],
}
_RESULTS = [
    {"status": 201, "request_id": "web:2026-11-22:17", "record": _RECORD},
    {"status": 400, "request_id": "web:2026-11-22:18", "error": _PROBLEM},
]
_SUMMARY = {"created": 1, "replayed": 0, "rejected": 1}

# By component: its title, without which the page calls it "any", and an example.
_TITLES_AND_EXAMPLES: dict[str, tuple[str, Any]] = {
    "Usage": ("Usage", _USAGE),
    "Batch": ("Batch of usage", [_USAGE]),
    "UsageRecord": ("Usage record", _RECORD),
    "BillReference": ("Bill", _BILL),
    "BatchAnswer": ("Answer to a batch", {"results": _RESULTS, "summary": _SUMMARY}),
    "Result": ("Result", _RESULTS[0]),
    "Summary": ("Summary", _SUMMARY),
    "Problem": ("Problem", _PROBLEM),
    "InvalidField": ("Invalid field", _INVALID_FIELD),
}


def complete(result: dict[str, Any], **_others: Any) -> dict[str, Any]:
    """Add what serializers cannot say; a hook of drf-spectacular."""
    for path in result["paths"].values():
        path["post"]["requestBody"]["required"] = True
    schemas = result["components"]["schemas"]
    schemas["Usage"]["additionalProperties"] = False
    for name, schema in schemas.items():
        title, example = _TITLES_AND_EXAMPLES[name]
        schema |= {"title": title, "examples": [example]}
    return result


class BatchExtension(OpenApiSerializerExtension):
    """A batch is an array of usage records."""

    target_class = BatchSerializer

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        """Return the schema."""
        items = auto_schema.resolve_serializer(UsageSerializer, direction).ref
        return {"type": "array", "items": items, "minItems": 1, "maxItems": MOST_RECORDS}


class ApiKeyExtension(OpenApiAuthenticationExtension):
    """API keys are sent as bearer tokens."""

    target_class = "usage.api.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        """Return the scheme."""
        return {"type": "http", "scheme": "bearer", "description": "An API key of this service."}


_RETRIES = """
**Make `request_id`, `occurred_at` and the bytes of the body once, before the first try**, and send
the same bytes with every retry. Only `request_id` decides whether usage is recorded already.

* 200 and 201: recorded. Done.
* No answer, 429 or 5xx: send the same bytes again, after `Retry-After` or 0.2 seconds, doubled
  with each try.
* Anything else is final. Sending the same fact under a new `request_id` charges the customer twice.
"""
_BOTH = """
Both addresses, with and without the last slash, take one record as well as an array. Each field is
also taken under its camelCase name (`requestId`), and each decimal as a JSON number.
"""
_RECORD_DESCRIPTION = f"""Records one fact on the customer's current bill, exactly once.
{_RETRIES}
A header `Idempotency-Key` is not needed; if it is sent, it must be the `request_id`.
{_BOTH}"""
_BATCH_DESCRIPTION = f"""Records up to {MOST_RECORDS} facts, each exactly once. A record that is
rejected stops no other.

**The answer is 207 even if every record is rejected: look at `summary.rejected`**, then at the
`error` of each result. A header `Idempotency-Key` means nothing here.
{_RETRIES}{_BOTH}"""


_REFUSALS = {
    400: "Not JSON (`invalid_json`), or not valid (`validation_error`).",
    401: "No valid API key (`not_authenticated`).",
    405: "Usage is reported by POST.",
    413: "More than 2 MiB, or more than 1000 records.",
    415: "Not application/json.",
    429: "Too many requests of this API key are in progress (`too_many_requests`): nothing was"
    " recorded, send the same bytes again after Retry-After.",
    500: "The service failed: send the same bytes again later.",
    503: "The database is away or overloaded (`service_unavailable`): send the same bytes again"
    " after Retry-After.",
}
_REFUSALS_OF_ONE_RECORD = {
    404: "There is no such customer (`unknown_customer`).",
    409: "The request_id is stored with other content (`request_id_conflict`), or only with another"
    " occurred_at (`occurred_at_conflict`). If this is a retry, stop: it is recorded.",
}


def _header(name: str, description: str, *statuses: int) -> OpenApiParameter:
    return OpenApiParameter(
        name, OpenApiTypes.STR, "header", description=description, response=list(statuses) or True
    )


class UsageSchema(AutoSchema):
    """Describes one record at the address with the last slash, and an array at the other one."""

    @property
    def _is_batch(self) -> bool:
        return not self.path.endswith("/")

    def get_tags(self) -> list[str]:
        return ["usage"]

    def get_operation_id(self) -> str:
        return "record_usage_batch" if self._is_batch else "record_usage"

    def get_summary(self) -> str:
        return "Record a batch of usage" if self._is_batch else "Record usage"

    def get_description(self) -> str:  # type: ignore[override]  # as the library itself has it
        return _BATCH_DESCRIPTION if self._is_batch else _RECORD_DESCRIPTION

    def get_request_serializer(self) -> Any:
        return BatchSerializer if self._is_batch else UsageSerializer

    def get_response_serializers(self) -> Any:
        responses: dict[int | tuple[int, str], OpenApiResponse]
        if self._is_batch:
            refusals = _REFUSALS
            description = (
                "One result for each record. Look at `summary.rejected`: 207 says nothing of"
                " whether anything was recorded."
            )
            responses = {207: OpenApiResponse(BatchAnswerSerializer, description=description)}
        else:
            refusals = _REFUSALS_OF_ONE_RECORD | _REFUSALS
            responses = {
                201: OpenApiResponse(UsageRecordSerializer, description="Recorded."),
                200: OpenApiResponse(
                    UsageRecordSerializer, description="Replayed: recorded before, once."
                ),
            }
        for status, description in refusals.items():
            problem = OpenApiResponse(ProblemSerializer, description=description)
            responses[status, CONTENT_TYPE] = problem
        return responses

    def get_override_parameters(self) -> list[Any]:
        replayed = [_header("Idempotent-Replayed", "`true`: it was recorded before.", 200)]
        return [
            _header("X-Request-ID", "The caller's if it is safe to log, else a new one."),
            *([] if self._is_batch else replayed),
            _header("WWW-Authenticate", "`Bearer`", 401),
            _header("Allow", "`POST`", 405),
            _header("Retry-After", "Seconds to wait before the next try.", 429, 503),
        ]

    def get_examples(self) -> list[OpenApiExample]:
        name, body = ("A batch", [_USAGE]) if self._is_batch else ("One record", _USAGE)
        return [OpenApiExample(name, body, request_only=True)]
