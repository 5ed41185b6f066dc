"""`void_records` is killed at a third and run again: each record is voided once."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal

import pytest

from usage.ledger.close import close
from usage.ledger.facts import Fact
from usage.ledger.record import record
from usage.models import Bill, UsageRecord
from usage.tests.books import Books, assert_books_balance, verify_bills

pytestmark = pytest.mark.live  # starts processes
COMMAND = [
    *(sys.executable, "-u", "manage.py", "void_records", "--service", "Wrong"),
    *("--reason", "Counted twice.", "--apply"),
]
CUSTOMERS = (1, 2, 3)


def report(count: int, service: str, name: str) -> None:
    facts = [
        Fact(
            f"{name}:{number}",
            CUSTOMERS[number % len(CUSTOMERS)],
            service,
            Decimal(number % 7 + 1),
            Decimal("0.05"),
        )
        for number in range(count)
    ]
    for start in range(0, count, 1000):
        record(facts[start : start + 1000], reported_by_id=None)


@pytest.mark.parametrize("count", [600, pytest.param(22_000, marks=pytest.mark.soak)])
@pytest.mark.timeout(1200)
def test_a_run_killed_at_a_third_is_run_again(own_books: Books, count: int) -> None:
    report(count // 2, "Wrong", "closed")
    report(9, "Right", "right")
    for bill in Bill.objects.all():
        close(bill, by="Sam")
    closed = {bill.pk: bill.total for bill in Bill.objects.closed()}
    report(count // 2, "Wrong", "open")
    environment = os.environ | {"DATABASE_URL": own_books.url}

    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "voided" in line and int(line.split()[0].replace(",", "")) >= count / 3:
                process.kill()
                break
    voids = UsageRecord.objects.filter(voids__isnull=False)
    assert count / 3 <= voids.count() < count
    subprocess.run(COMMAND, env=environment, check=True, stdout=subprocess.DEVNULL)

    assert voids.count() == count
    assert not voids.exclude(service="Wrong").exists()
    assert {bill.pk: bill.total for bill in Bill.objects.filter(pk__in=closed)} == closed
    assert sum(bill.total for bill in Bill.objects.open()) == -sum(
        line.amount
        for bill in Bill.objects.closed()
        for line in bill.lines()
        if line.service == "Wrong"
    )
    assert_books_balance(own_books, of=CUSTOMERS)
    verify_bills(own_books)
