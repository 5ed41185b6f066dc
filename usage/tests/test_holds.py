"""A bill on hold is closed by no door until it is released."""

import pytest

from usage.ledger.close import BillOnHold, close
from usage.ledger.hold import HoldRefused, hold, release
from usage.models import Bill, Customer, HistoryEntry, Hold
from usage.tests.conftest import DatabaseClock
from usage.tests.staff import report

pytestmark = pytest.mark.django_db


@pytest.fixture
def bill(customer: Customer, database_clock: DatabaseClock) -> Bill:
    database_clock.set("2026-11-23T12:00:00Z")
    return report()


def test_a_bill_on_hold_is_not_closed(bill: Bill) -> None:
    hold(bill, by="Sam", reason="The customer disputes it.")

    with pytest.raises(BillOnHold, match="The customer disputes it"):
        close(bill, by="Sam")

    bill.refresh_from_db()
    assert not bill.is_closed


def test_usage_still_goes_on_a_bill_on_hold(bill: Bill) -> None:
    hold(bill, by="Sam", reason="Disputed.")

    assert report() == bill
    assert bill.records.count() == 2


def test_a_released_bill_is_closed(bill: Bill) -> None:
    hold(bill, by="Sam", reason="Disputed.")
    release(bill, by="Kim", reason="Settled.")

    assert close(bill, by="Sam")
    entries = HistoryEntry.objects.order_by("id").values_list("action", "actor", "reason")
    assert list(entries) == [
        ("held", "Sam", "Disputed."),
        ("released", "Kim", "Settled."),
        ("closed", "Sam", ""),
    ]


def test_a_closed_bill_is_not_put_on_hold(bill: Bill) -> None:
    close(bill, by="Sam")

    with pytest.raises(HoldRefused, match="closed already"):
        hold(bill, by="Sam", reason="Too late.")

    assert not Hold.objects.exists()


def test_a_bill_is_put_on_hold_once(bill: Bill) -> None:
    hold(bill, by="Sam", reason="Disputed.")

    with pytest.raises(HoldRefused, match="on hold already"):
        hold(bill, by="Kim", reason="Disputed again.")

    assert Hold.objects.get().by == "Sam"


def test_a_hold_needs_a_reason(bill: Bill) -> None:
    with pytest.raises(HoldRefused, match="Give a reason"):
        hold(bill, by="Sam", reason=" ")


def test_only_a_bill_on_hold_is_released(bill: Bill) -> None:
    with pytest.raises(HoldRefused, match="not on hold"):
        release(bill, by="Sam")

    assert not HistoryEntry.objects.exists()
