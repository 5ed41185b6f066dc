"""One contract for the client's fake and for the client with the real service."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billing_client import (
    BillingClient,
    ConfigurationError,
    ConflictError,
    CustomerNotFoundError,
    Usage,
)
from billing_client.testing import FakeBillingClient
from usage.tests.books import assert_books_balance
from usage.tests.live import Service

STRANGER = 10**9


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.live)])
def billing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BillingClient]:
    if request.param == "fake":
        with FakeBillingClient(outbox="memory", unknown_customers=[STRANGER]) as fake:
            yield fake
        return
    service: Service = request.getfixturevalue("live_service")
    url = f"http://127.0.0.1:{service.port}"
    with BillingClient(url, service.books.key, outbox=tmp_path) as real:
        yield real
    assert_books_balance(service.books)


def fact(request_id: str | None = None, **more: Any) -> Usage:
    content = {"customer_id": 7, "service": "CDN", "units_consumed": "0.5", "price_per_unit": "0.3"}
    return Usage(**{**content, **more}, request_id=request_id)


def test_enqueued_usage_is_sent_once_by_flush(billing: BillingClient) -> None:
    usage = fact()
    billing.enqueue(usage)
    billing.enqueue(usage)
    flushed = billing.flush(20)
    assert (flushed.pending, flushed.rejected, flushed.paused_reason) == (0, 0, None)
    assert billing.stats().sent == 2
    assert billing.record_many([usage])[0].status == "replayed"


def test_a_conflict_is_rejected(billing: BillingClient) -> None:
    usage = fact()
    billing.enqueue(usage)
    billing.enqueue(fact(usage.request_id, units_consumed=2))
    billing.flush(20)
    assert billing.stats().rejected == 1
    with pytest.raises(ConflictError) as raised:
        billing.record_many([fact(usage.request_id, service="other")]).raise_for_rejected()
    assert raised.value.conflicting_fields == ("service",)


@pytest.mark.filterwarnings("ignore::billing_client.OutboxWarning")  # of the record that waits
def test_an_unknown_customer_waits(billing: BillingClient) -> None:
    billing.enqueue(fact(customer_id=STRANGER))
    flushed = billing.flush(20)
    assert (flushed.pending, flushed.rejected) == (1, 0)
    with pytest.raises(CustomerNotFoundError):
        billing.record_usage(
            customer_id=STRANGER, service="CDN", units_consumed=1, price_per_unit=1
        )


def test_a_receipt_is_exact(billing: BillingClient) -> None:
    receipt = billing.record_usage(
        customer_id=7, service="CDN", units_consumed="0.5", price_per_unit="0.3"
    )
    assert (receipt.status, str(receipt.amount), receipt.late) == ("created", "0.15", False)


def test_a_given_time_conflicts_with_another(billing: BillingClient) -> None:
    now = dt.datetime.now(dt.UTC)
    usage = fact(occurred_at=now)
    billing.enqueue(usage)
    billing.enqueue(fact(usage.request_id, occurred_at=now - dt.timedelta(seconds=5)))
    assert billing.flush(20).rejected == 1


def test_closed_is_closed(billing: BillingClient) -> None:
    billing.close()
    with pytest.raises(ConfigurationError, match="closed"):
        billing.enqueue(fact())
    with pytest.raises(ConfigurationError, match="closed"):
        billing.record_many([fact()])


@pytest.mark.parametrize(
    "name", ["record_usage", "record_many", "enqueue", "flush", "stats", "resend", "close"]
)
def test_the_fake_has_the_same_signatures(name: str) -> None:
    fake, real = getattr(FakeBillingClient, name), getattr(BillingClient, name)
    assert inspect.signature(fake) == inspect.signature(real)
