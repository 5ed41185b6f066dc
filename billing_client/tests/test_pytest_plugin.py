"""The fixture that users get."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from billing_client import BillingClient, ConfigurationError
from billing_client.pytest_plugin import fake_billing, fake_billing_with_outbox
from billing_client.testing import FakeBillingClient
from billing_client.tests.faulty import KEY
from billing_client.tests.outboxes import NO_SERVICE, fact

__all__ = ["fake_billing", "fake_billing_with_outbox"]


def test_it_is_a_client_that_records_in_memory(
    fake_billing_with_outbox: FakeBillingClient,
) -> None:
    fake_billing_with_outbox.enqueue(fact("one"))
    fake_billing_with_outbox.flush()
    assert [usage.request_id for usage in fake_billing_with_outbox.recorded] == ["one"]


@pytest.mark.parametrize("name", ["enqueue", "flush", "stats"])
def test_without_an_outbox_it_refuses_what_the_real_one_refuses(
    fake_billing: FakeBillingClient, name: str
) -> None:
    arguments = [fact("one")] if name == "enqueue" else []
    with (
        BillingClient(NO_SERVICE, KEY) as real,
        pytest.raises(ConfigurationError) as theirs,
    ):
        getattr(real, name)(*arguments)
    with pytest.raises(ConfigurationError) as ours:
        getattr(fake_billing, name)(*arguments)
    assert str(ours.value) == str(theirs.value)


def test_usage_without_a_time_gets_that_of_the_call(
    fake_billing_with_outbox: FakeBillingClient,
) -> None:
    """And not that of its delivery, which may be in another month."""
    fake_billing = fake_billing_with_outbox
    thirtieth = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
    with time_machine.travel(thirtieth, tick=False):
        fake_billing.enqueue(fact("one"))
    with time_machine.travel(thirtieth + timedelta(hours=1), tick=False):
        assert fake_billing.stats().oldest_seconds == 3600
        fake_billing.flush()
    assert [usage.occurred_at for usage in fake_billing.recorded] == [thirtieth]
    assert fake_billing.stats().oldest_seconds is None


def test_usage_for_an_unknown_customer_is_rejected_after_a_week(
    fake_billing_with_outbox: FakeBillingClient,
) -> None:
    """As the real client does it."""
    fake_billing = fake_billing_with_outbox
    fake_billing.unknown_customers.add(123)
    began = datetime(2026, 11, 3, tzinfo=UTC)
    with time_machine.travel(began, tick=False):
        fake_billing.enqueue(fact("one"))
        assert fake_billing.flush().pending == 1
    with time_machine.travel(began + timedelta(days=8), tick=False):
        flushed = fake_billing.flush()
    assert (flushed.pending, flushed.rejected) == (0, 1)


@pytest.mark.parametrize(("passes_time", "month"), [(True, "2026-03"), (False, "2026-04")])
def test_a_repetition_after_midnight_is_on_the_bill_of_the_time_that_is_passed(
    fake_billing: FakeBillingClient, passes_time: bool, month: str
) -> None:
    """Without one it is on the next month's bill, and the receipt says so."""
    before_midnight = datetime(2026, 3, 31, 23, 40, tzinfo=UTC)
    usage = fact("one", occurred_at=before_midnight if passes_time else None)
    # The service was away at 23:40, and the caller tries again.
    with time_machine.travel(before_midnight + timedelta(minutes=20, seconds=20), tick=False):
        (receipt,) = fake_billing.record_many([usage])
        expected = before_midnight if passes_time else datetime.now(UTC)
    assert (receipt.month, receipt.occurred_at, receipt.late) == (month, expected, False)
