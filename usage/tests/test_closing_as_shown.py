"""A close that names the total it showed is refused once the bill is another."""

from decimal import Decimal

import pytest

from usage.attention.bills import examine
from usage.ledger.close import BillChanged, close
from usage.models import Bill, Customer, HistoryEntry
from usage.tests.conftest import DatabaseClock
from usage.tests.staff import report

pytestmark = pytest.mark.django_db

IN_NOVEMBER, PAST_GRACE = "2026-11-23T12:00:00Z", "2026-12-10T12:00:00Z"


@pytest.fixture
def bill(customer: Customer, database_clock: DatabaseClock) -> Bill:
    database_clock.set(IN_NOVEMBER)
    return spend("100")


def spend(amount: str) -> Bill:
    return report(units=Decimal(amount), price_per_unit=Decimal(1))


def test_a_bill_as_shown_is_closed_and_the_history_keeps_both_totals(bill: Bill) -> None:
    spend("0.5")

    assert close(bill, by="Sam", expected_total=Decimal(100))

    entry = HistoryEntry.objects.get()
    assert entry.detail == "Shown at 100, closed at 100.5 USD."


@pytest.mark.parametrize("amount", ["1.01", "1000000"])
def test_a_bill_that_moved_by_more_than_1_per_cent_stays_open(bill: Bill, amount: str) -> None:
    spend(amount)

    with pytest.raises(BillChanged, match=r"The total was 100 USD and is now 1"):
        close(bill, by="Sam", expected_total=Decimal(100))

    assert not Bill.objects.get().is_closed


def test_a_bill_past_its_grace_stays_open_at_any_difference(
    bill: Bill, database_clock: DatabaseClock
) -> None:
    database_clock.set(PAST_GRACE)

    with pytest.raises(BillChanged):
        close(bill, by="Sam", expected_total=Decimal("99.99"))

    assert close(bill, by="Sam", expected_total=Decimal(100))


def test_a_bill_that_newly_needs_attention_stays_open(
    bill: Bill, database_clock: DatabaseClock
) -> None:
    bill.possible_duplicates.create(
        service="x", price_per_unit=1, records=1, amount=0, since="2026-11-01T00:00:00Z", pairs=[]
    )
    now = database_clock.set(IN_NOVEMBER)

    with pytest.raises(BillChanged, match="now needs attention: possible duplicates"):
        close(bill, by="Sam", expected_total=Decimal(100))

    flags = examine([bill], now)[bill.pk].flags
    assert close(bill, by="Sam", expected_total=Decimal(100), expected_flags=flags)


def test_closing_twice_does_nothing_whatever_was_shown(bill: Bill) -> None:
    close(bill, by="Sam")

    assert not close(bill, by="Sam", expected_total=Decimal(7))
