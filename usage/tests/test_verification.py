"""`Verification` computes bills again from their records, and finds that those agree."""

import datetime as dt

import pytest
from pytest_django import Settings

from usage.ledger.close import close
from usage.ledger.void import void
from usage.models import Bill, Customer, DailyUsage, UsageRecord
from usage.periods import month_bounds
from usage.tests.billed import Bills, make_bills, use
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.verification import Verification

pytestmark = pytest.mark.django_db


@pytest.fixture
def bills(db: None, database_clock: DatabaseClock) -> Bills:
    return make_bills(database_clock)


def test_untouched_bills_differ_in_nothing(bills: Bills) -> None:
    assert list(Verification().differences()) == []


def test_what_was_read_is_counted(bills: Bills) -> None:
    verification = Verification()

    assert list(verification.differences()) == []
    assert (verification.bills, verification.records) == (3, 8)


def test_late_usage_may_be_voided_on_its_bill_long_after_the_month(
    customer: Customer, database_clock: DatabaseClock
) -> None:
    october = database_clock.set("2026-10-20T12:00:00Z")
    database_clock.set("2026-11-10T12:00:00Z")
    use("late", "1", "2", october)
    database_clock.set("2026-12-20T12:00:00Z")
    void(UsageRecord.objects.get(), reason="sent by mistake", by="carol")

    assert Bill.objects.get().month == dt.date(2026, 11, 1)
    assert list(Verification().differences()) == []


def test_usage_may_be_dated_ahead_into_the_next_month_or_past_an_early_close(
    customer: Customer, database_clock: DatabaseClock
) -> None:
    skew = dt.timedelta(minutes=4)
    use("past:the:close", "1", "2", database_clock.set("2026-11-30T12:00:00Z") + skew)
    database_clock.set("2026-11-30T12:01:00Z")
    close(Bill.objects.get(), by="Sam")
    use("next:month", "1", "2", database_clock.set("2026-11-30T23:58:00Z") + skew)

    assert list(Bill.objects.values_list("month__month", flat=True)) == [12, 11]
    assert list(Verification().differences()) == []


def test_usage_may_be_recorded_in_the_millisecond_of_the_close(
    customer: Customer, database_clock: DatabaseClock
) -> None:
    use("just:before", "1", "2", database_clock.set("2026-11-30T12:00:00Z"))
    assert close(Bill.objects.get(), by="Sam")

    assert list(Verification().differences()) == []


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "Asia/Kathmandu"])
def test_days_and_months_are_those_of_the_billing_time_zone(
    zone: str, customer: Customer, database_clock: DatabaseClock, settings: Settings
) -> None:
    settings.BILLING_TIME_ZONE = settings.TIME_ZONE = zone
    midnight = month_bounds(dt.date(2026, 11, 1)).start
    moments = [midnight + dt.timedelta(minutes=minutes) for minutes in (-1, 0, 1439, 1440)]
    database_clock.set((midnight + dt.timedelta(days=2)).isoformat())

    for number, moment in enumerate(moments):
        use(f"edge:{number}", "1", "1", moment)

    assert DailyUsage.objects.values_list("day", flat=True).distinct().count() == 3
    assert list(Verification().differences()) == []


def test_services_are_compared_in_one_order_whatever_the_database_sorts_by(bills: Bills) -> None:
    for number, service in enumerate(["Z", "a", "é", "É", "-a", "日本", "𐍈", "ﬀ", "A b", "Ab"]):
        use(f"service:{number}", "1", "1", None, service=service)

    assert list(Verification().differences()) == []


def test_a_currencys_own_digits_count(customer: Customer) -> None:
    CustomerFactory.create(id=1, currency="JPY")
    CustomerFactory.create(id=2, currency="KWD")
    for customer_id in (1, 2):
        use(f"in:{customer_id}", "1", "1.5015", None, customer_id=customer_id)
        bill = Bill.objects.get(customer=customer_id)
        assert close(bill, by="Sam")

    assert list(Verification().differences()) == []
