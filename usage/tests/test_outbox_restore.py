"""The drill of docs/operations.md: a restored service gets its lost records again."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from billing_client import BillingClient, Usage
from billing_client.commands.main import main
from usage.tests.books import (
    CUSTOMERS,
    Books,
    assert_books_balance,
    copied,
    verify_bills,
)
from usage.tests.live import Service
from usage.tests.relay import FaultyRelay

# Other tests measure this code.
pytestmark = pytest.mark.no_cover

RECORDS, KEPT = 10_000, 9_000
BILLED = CUSTOMERS[:7]


def enqueue(billing: BillingClient, numbers: range) -> None:
    for n in numbers:
        usage = Usage(
            customer_id=BILLED[n % 7],
            service=f"CDN {n % 3}",
            units_consumed=n % 11 + 1,
            price_per_unit="0.013",
            request_id=f"cdn:{n}",
        )
        billing.enqueue(usage)
    assert billing.flush(120).pending == 0


def bills(books: Books) -> dict[int, dict[Any, Decimal]]:
    """The units of each customer's bill, by service, price and day."""
    found: dict[int, dict[Any, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in books.table("usage_dailyusage"):
        line = row["bill_id"], row["service"], row["price_per_unit"], row["day"]
        found[row["customer_id"]][line] += row["units"]
    return found


@contextlib.contextmanager
def serving(books: Books, relay: FaultyRelay) -> Any:
    """The service behind the address that its callers know."""
    with Service(books) as service:
        relay._service = "127.0.0.1", service.port
        yield
        service.kill()
    if books.is_sqlite:
        books.rows("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.live  # starts processes
@pytest.mark.timeout(600)
def test_resend_brings_back_exactly_what_a_restored_service_lost(
    own_books: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = dt.datetime.now(dt.UTC)
    with (
        FaultyRelay(0) as relay,
        BillingClient(relay.url, own_books.key, outbox=tmp_path) as billing,
        contextlib.ExitStack() as stack,
    ):
        with serving(own_books, relay):
            enqueue(billing, range(KEPT))
        restored = stack.enter_context(copied(own_books))
        with serving(own_books, relay):
            enqueue(billing, range(KEPT, RECORDS))
        assert len(restored.table("usage_usagerecord")) == KEPT

        monkeypatch.setenv("BILLING_URL", relay.url)
        monkeypatch.setenv("BILLING_API_KEY", restored.key)
        monkeypatch.setenv("BILLING_OUTBOX_DIR", str(tmp_path))
        since = began - dt.timedelta(minutes=3)
        out = io.StringIO()
        with serving(restored, relay):
            status = main(["resend", "--since", since.isoformat()], out)
        assert (status, out.getvalue().splitlines()[-1].partition(" This")[0]) == (
            0,
            "10000 records were sent again; the service had lost 1000 of them.",
        )
        verify_bills(restored)
        assert_books_balance(restored, of=BILLED)
        assert bills(restored) == bills(own_books)
        columns = ("request_id", "customer_id", "units", "occurred_at", "bill_id")
        records = [
            sorted(tuple(row[name] for name in columns) for row in books.table("usage_usagerecord"))
            for books in (restored, own_books)
        ]
        assert records[0] == records[1]
