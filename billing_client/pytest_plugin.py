"""A fixture: put ``pytest_plugins = ["billing_client.pytest_plugin"]`` into your conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from billing_client.testing import FakeBillingClient


@pytest.fixture
def fake_billing() -> Iterator[FakeBillingClient]:
    """A billing client that records in memory, see billing_client.testing."""
    with FakeBillingClient() as billing:
        yield billing


@pytest.fixture
def fake_billing_with_outbox() -> Iterator[FakeBillingClient]:
    """The same with an outbox, so that enqueue() works."""
    with FakeBillingClient(outbox="memory") as billing:
        yield billing
