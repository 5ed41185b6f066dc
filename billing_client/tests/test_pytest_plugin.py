"""The fixture that users get."""

from __future__ import annotations

from billing_client.pytest_plugin import fake_billing
from billing_client.testing import FakeBillingClient
from billing_client.tests.outboxes import fact

__all__ = ["fake_billing"]


def test_it_is_a_client_that_records_in_memory(fake_billing: FakeBillingClient) -> None:
    fake_billing.enqueue(fact("one"))
    fake_billing.flush()
    assert [usage.request_id for usage in fake_billing.recorded] == ["one"]
