"""generate_usage fills a database with usage that adds up, as if it had been reported."""

from __future__ import annotations

import datetime as dt
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from usage.ledger.close import close
from usage.management.commands import generate_usage
from usage.models import Bill, Customer, DailyUsage, UsageRecord

pytestmark = pytest.mark.django_db


def generate(**options: Any) -> str:
    out = StringIO()
    call_command("generate_usage", stdout=out, **options)
    return out.getvalue()


def verified() -> bool:
    out = StringIO()
    call_command("verify_bills", stdout=out)  # raises if anything differs
    return "no difference" in out.getvalue()


def test_what_it_makes_adds_up() -> None:
    assert generate(customers=5, records=1003, months=2) == "1,003 records on 10 bills.\n"

    assert UsageRecord.objects.count() == 1003
    assert Bill.objects.open().count() == 10
    assert Customer.objects.count() == 5
    assert verified()


def test_it_adds_to_what_is_there() -> None:
    generate(customers=2, records=100, months=1)
    generate(customers=2, records=100, months=1, seed="more")

    assert UsageRecord.objects.count() == 200
    assert Bill.objects.count() == 2
    assert verified()


def test_the_same_seed_makes_the_same_records() -> None:
    generate(customers=1, records=20, months=1)

    with pytest.raises(CommandError, match="another --seed"):
        generate(customers=1, records=20, months=1)

    assert UsageRecord.objects.count() == 20
    assert verified()


def test_bills_larger_than_a_transaction_are_loaded_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("usage.management.commands.generate_usage._RECORDS_AT_ONCE", 30)

    generate(customers=2, records=150, months=1)

    assert [bill.records.count() for bill in Bill.objects.order_by("customer")] == [75, 75]
    assert verified()


def test_no_bill_is_opened_that_gets_no_record() -> None:
    assert generate(customers=10, records=5, months=2) == "5 records on 5 bills.\n"

    assert Bill.objects.count() == 5
    assert verified()


def test_a_bill_that_was_closed_meanwhile_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generate(customers=1, records=10, months=1)

    def owners_before_a_close(month: dt.date, ids: range) -> list[tuple[dt.date, int]]:
        close(Bill.objects.get(), by="Sam")
        return [(month, 1)]

    monkeypatch.setattr(generate_usage, "_owners", owners_before_a_close)
    with pytest.raises(CommandError, match=r"customer 1 for \d{4}-\d\d was closed meanwhile"):
        generate(customers=1, records=10, months=1, seed="more")

    assert UsageRecord.objects.count() == 10


def test_closed_bills_get_nothing() -> None:
    generate(customers=1, records=10, months=1)
    close(Bill.objects.get(), by="Sam")

    with pytest.raises(CommandError, match="are closed"):
        generate(customers=1, records=10, months=1)

    assert UsageRecord.objects.count() == 10


def test_days_are_those_of_the_billing_time_zone(settings: Any) -> None:
    settings.TIME_ZONE = settings.BILLING_TIME_ZONE = "Pacific/Kiritimati"

    generate(customers=1, records=500, months=2)

    assert verified()
    assert DailyUsage.objects.values("day").distinct().count() > 30


@pytest.mark.parametrize("wrong", [{"customers": 0}, {"records": 0}, {"months": 13}])
def test_numbers_out_of_bounds_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(CommandError, match="at least 1"):
        generate(**wrong)

    assert not Customer.objects.exists()
