"""Made-up usage adds up, as if it had been reported."""

from __future__ import annotations

import sys
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError

from benchmarks import generate as module
from benchmarks.generate import generate, main
from usage.models import Bill, Customer, DailyUsage, UsageRecord

# Other tests measure this code.
pytestmark = [pytest.mark.django_db, pytest.mark.no_cover]


def verified() -> bool:
    out = StringIO()
    call_command("verify_bills", stdout=out)  # raises if anything differs
    return "no difference" in out.getvalue()


def test_the_records_are_spread_over_customers_and_months() -> None:
    generate(range(1, 6), records=1003, months=2)

    assert Customer.objects.count() == 5
    counts = {bill.records.count() for bill in Bill.objects.open()}
    assert counts <= {100, 101}
    assert Bill.objects.count() == 10
    assert UsageRecord.objects.count() == 1003
    assert verified()


def test_customers_keep_their_name_and_currency() -> None:
    Customer.objects.create(id=2, name="Otani Denki", currency="JPY")

    generate(range(1, 3), records=10, months=1)

    assert Customer.objects.get(id=2).name == "Otani Denki"
    assert [bill.currency for bill in Bill.objects.order_by("customer")] == ["USD", "JPY"]
    assert verified()


def test_more_customers_get_records_of_their_own() -> None:
    generate(range(1, 3), records=100, months=1)
    generate(range(3, 5), records=100, months=1)

    assert UsageRecord.objects.count() == 200
    assert verified()


def test_a_bill_that_exists_gets_nothing() -> None:
    generate(range(1, 3), records=20, months=1)

    with pytest.raises(IntegrityError):
        generate(range(1, 3), records=20, months=1, seed="more")


def test_a_large_bill_is_loaded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RECORDS_AT_ONCE", 30)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 7)

    generate(range(1, 3), records=150, months=1)

    assert [bill.records.count() for bill in Bill.objects.order_by("customer")] == [75, 75]
    assert verified()


def test_no_bill_is_opened_that_gets_no_record() -> None:
    generate(range(1, 11), records=5, months=2)

    assert Bill.objects.count() == UsageRecord.objects.count() == 5
    assert verified()


def test_many_customers_fit_into_the_statements_of_sqlite() -> None:
    generate(range(1, 1202), records=1201, months=1)

    assert Bill.objects.count() == 1201
    assert verified()


def test_days_are_those_of_the_billing_time_zone(settings: Any) -> None:
    settings.TIME_ZONE = settings.BILLING_TIME_ZONE = "Pacific/Kiritimati"

    generate(range(1, 2), records=500, months=2)

    assert verified()
    assert DailyUsage.objects.values("day").distinct().count() > 30


@pytest.mark.parametrize(
    ("option", "value"), [("--customers", "0"), ("--records", "0"), ("--months", "13")]
)
def test_numbers_out_of_bounds_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["generate", option, value])

    with pytest.raises(SystemExit):
        main()

    assert f"argument {option}: " in capsys.readouterr().err
