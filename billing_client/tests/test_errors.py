"""The errors: one tree, each with its advice, none that a pickle loses."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import billing_client
from billing_client import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    ConflictError,
    CustomerNotFoundError,
    FieldError,
    RateLimitedError,
    Receipt,
    Receipts,
    UnavailableError,
    ValidationError,
)

KINDS = [
    BillingError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    CustomerNotFoundError,
    RateLimitedError,
    UnavailableError,
    ValidationError,
]


def filled(kind: type[BillingError]) -> BillingError:
    error = kind("What was wrong.")
    error.request_ids = ("a", "b")
    error.status_code = 503
    error.code = "service_unavailable"
    error.attempts = 5
    error.retry_after = 7.0
    error.ambiguous = True
    error.trace_id = "trace"
    error.receipts = Receipts(
        [Receipt("z", "created"), Receipt("y", "rejected", error=kind("Why."))]
    )
    if isinstance(error, ValidationError):
        error.fields = (FieldError("service", "invalid", "service is empty"),)
    if isinstance(error, ConflictError):
        error.conflicting_fields = ("service",)
    return error


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_loses_nothing(kind: type[BillingError]) -> None:
    error = filled(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == "What was wrong."
    assert vars(copy) == vars(error)
    assert [str(receipt.error) for receipt in copy.receipts] == ["None", "Why."]


@pytest.mark.parametrize("kind", KINDS)
def test_each_says_whether_to_resend(kind: type[BillingError]) -> None:
    assert "resend" in str(kind.__doc__).lower()


@pytest.mark.parametrize("kind", KINDS)
def test_all_are_one_tree(kind: type[BillingError]) -> None:
    assert issubclass(kind, BillingError)
    assert kind.__name__ in billing_client.__all__


def test_a_fresh_error_claims_nothing() -> None:
    expected: dict[str, Any] = {
        "request_ids": (),
        "status_code": None,
        "code": None,
        "attempts": 0,
        "retry_after": None,
        "ambiguous": False,
        "receipts": (),
        "trace_id": None,
    }
    assert vars(BillingError("x")) == expected


def test_wrong_usage_is_a_value_error_too() -> None:
    assert issubclass(ValidationError, ValueError)
