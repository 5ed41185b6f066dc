"""Bills as months of use leave them: closed and open, with usage in time, late and voided."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from usage.ledger.close import close
from usage.ledger.record import record
from usage.ledger.void import void
from usage.models import Bill, UsageRecord
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory, FactFactory

Bills = dict[str, int]


def use(request_id: str, units: str, price: str, occurred_at: Any, **other: Any) -> None:
    fact = FactFactory.build(
        request_id=request_id,
        units=Decimal(units),
        price_per_unit=Decimal(price),
        occurred_at=occurred_at,
        **other,
    )
    record([fact], reported_by_id=None)


def make_bills(database_clock: DatabaseClock) -> Bills:
    """Make Alice's closed and open bills and Bob's; return their ids by name."""
    CustomerFactory.create(id=123, name="Alice")
    CustomerFactory.create(id=456, name="Bob")
    october = database_clock.set("2026-10-20T12:00:00Z")
    use("old:1", "58", "0.05", october)
    use("old:2", "10", "0.02", october, service="CDN Storage")
    database_clock.set("2026-11-05T12:00:00Z")
    close(Bill.objects.get(), by="Sam")
    november = database_clock.set("2026-11-10T12:00:00Z")
    use("new:1", "3", "0.05", november)
    use("new:2", "7", "0.02", november, service="CDN Storage")
    use("late", "5", "0.05", october)
    use("bob", "1", "2", november, customer_id=456)
    for pk in ("old:2", "new:2"):
        void(UsageRecord.objects.get(pk=pk), reason="sent by mistake", by="carol")
    names = {"2026-10 123": "old", "2026-11 123": "new", "2026-11 456": "bob"}
    return {names[f"{bill.month:%Y-%m} {bill.customer_id}"]: bill.pk for bill in Bill.objects.all()}
