"""The demo's made-up company has a page full of everything that staff can see."""

from __future__ import annotations

import datetime as dt

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from benchmarks.demo import CUSTOMERS, fill
from usage.models import Bill, UsageRecord

# Other tests measure this code.
pytestmark = [pytest.mark.django_db, pytest.mark.no_cover]
MONTHS = 3


# On the first of a month, within the grace of the month before, and in January.
@pytest.mark.parametrize("day", ["2026-11-23", "2026-11-01", "2027-01-02"])
def test_it_has_bills_in_each_state_that_add_up(day: str) -> None:
    fill(dt.datetime.fromisoformat(f"{day}T14:30:00Z"), months=MONTHS, records=300)

    assert Bill.objects.closed().count() >= (MONTHS - 2) * len(CUSTOMERS)
    assert Bill.objects.open().count() >= len(CUSTOMERS)
    assert UsageRecord.objects.filter(voids__isnull=False).exists()
    call_command("verify_bills")  # raises if anything differs
    browser = Client()
    browser.force_login(User.objects.get())
    assert browser.get("/admin/").status_code == 200
