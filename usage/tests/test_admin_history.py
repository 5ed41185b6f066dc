"""A bill's page keeps who did what to it, when and why; the history is only ever added to."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client

from usage.models import Bill, Customer, Frozen, HistoryEntry, UsageRecord
from usage.tests.conftest import DatabaseClock
from usage.tests.staff import page_of, report, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def bill(customer: Customer, database_clock: DatabaseClock) -> Bill:
    database_clock.set("2026-11-23T12:00:00Z")
    return report(request_id="fact")


def test_closing_keeps_who_and_why(admin_client: Client, bill: Bill) -> None:
    admin_client.post(page_of(bill, "close"), {"reason": " The customer leaves. "})

    entry = HistoryEntry.objects.get()
    assert (entry.bill, entry.actor, entry.action) == (bill, "admin", "closed")
    assert entry.reason == "The customer leaves."
    page = text_of(admin_client.get(page_of(bill)))
    assert "closed the bill" in page
    assert "The customer leaves." in page


def test_closing_twice_is_kept_once(admin_client: Client, bill: Bill) -> None:
    for _ in range(2):
        admin_client.post(page_of(bill, "close"))

    assert HistoryEntry.objects.count() == 1


def test_a_void_after_the_close_is_in_the_history_of_both_bills(
    admin_client: Client, bill: Bill
) -> None:
    bill.close()
    record = UsageRecord.objects.get()

    admin_client.post(page_of(record, "void"), {"reason": "Counted twice."})

    other = Bill.objects.exclude(pk=bill.pk).get()
    for shown in (bill, other):
        assert [entry.record for entry in HistoryEntry.objects.filter(bill=shown)] == [record]
        assert "Counted twice." in text_of(admin_client.get(page_of(shown)))


def test_a_void_on_its_own_bill_is_kept_once(admin_client: Client, bill: Bill) -> None:
    record = UsageRecord.objects.get()

    admin_client.post(page_of(record, "void"), {"reason": "Counted twice."})

    assert HistoryEntry.objects.count() == 1


def test_an_entry_neither_changes_nor_goes(bill: Bill) -> None:
    entry = HistoryEntry.objects.keep(HistoryEntry.Action.CLOSED, bill, by="Sam")

    for change in (
        entry.save,
        entry.delete,
        HistoryEntry.objects.all().delete,
        lambda: HistoryEntry.objects.update(actor="Mallory"),
    ):
        with pytest.raises(Frozen):
            change()


def test_the_history_outlives_the_account(bill: Bill) -> None:
    user = User.objects.create_user("Sam")
    HistoryEntry.objects.keep(HistoryEntry.Action.CLOSED, bill, by=user)

    user.delete()

    assert HistoryEntry.objects.get().actor == "Sam"


@pytest.mark.parametrize(
    ("action", "by", "reason"),
    [("opened", "Sam", ""), ("closed", "", ""), ("closed", "Sam", "x" * 501)],
)
def test_a_malformed_entry_is_refused(bill: Bill, action: Any, by: str, reason: str) -> None:
    with pytest.raises(ValidationError):
        HistoryEntry.objects.keep(action, bill, by=by, reason=reason)


def test_the_admin_has_no_form_for_the_history(admin_client: Client) -> None:
    assert admin_client.get("/admin/usage/historyentry/").status_code == 404
