"""The fixture that users get."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import time_machine

from billing_client.pytest_plugin import fake_billing
from billing_client.testing import FakeBillingClient
from billing_client.tests.outboxes import fact

__all__ = ["fake_billing"]


def test_it_is_a_client_that_records_in_memory(fake_billing: FakeBillingClient) -> None:
    fake_billing.enqueue(fact("one"))
    fake_billing.flush()
    assert [usage.request_id for usage in fake_billing.recorded] == ["one"]


def test_usage_without_a_time_gets_that_of_the_call(fake_billing: FakeBillingClient) -> None:
    """And not that of its delivery, which may be in another month."""
    thirtieth = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
    with time_machine.travel(thirtieth, tick=False):
        fake_billing.enqueue(fact("one"))
    with time_machine.travel(thirtieth + timedelta(hours=1), tick=False):
        assert fake_billing.stats().oldest_seconds == 3600
        fake_billing.flush()
    assert [usage.occurred_at for usage in fake_billing.recorded] == [thirtieth]
    assert fake_billing.stats().oldest_seconds is None
