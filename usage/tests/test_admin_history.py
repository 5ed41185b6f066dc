"""A bill's page keeps who did what to it, when and why, in the transaction that did it."""

from decimal import Decimal
from itertools import chain

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.test import Client

from usage.admin.bill_page import HISTORY_SHOWN
from usage.ledger.close import close
from usage.ledger.void import VoidRefused, void
from usage.models import Bill, Customer, HistoryEntry, UsageRecord
from usage.tests.conftest import DatabaseClock
from usage.tests.staff import page_of, report, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def bill(customer: Customer, database_clock: DatabaseClock) -> Bill:
    database_clock.set("2026-11-23T12:00:00Z")
    return report(request_id="fact")


def test_the_history_keeps_who_closed_and_why(admin_client: Client, bill: Bill) -> None:
    admin_client.post(
        page_of(bill, "close"), {"expected_total": "2.9", "reason": " The customer leaves. "}
    )

    entry = HistoryEntry.objects.get()
    assert (entry.bill, entry.actor, entry.action) == (bill, "admin", "closed")
    assert entry.reason == "The customer leaves."
    page = text_of(admin_client.get(page_of(bill)))
    assert "closed the bill" in page
    assert "The customer leaves." in page


def test_closing_twice_is_kept_once(admin_client: Client, bill: Bill) -> None:
    for _ in range(2):
        admin_client.post(page_of(bill, "close"), {"expected_total": "2.9"})

    assert HistoryEntry.objects.count() == 1


def test_a_void_after_the_close_is_in_the_history_of_both_bills(
    admin_client: Client, bill: Bill
) -> None:
    close(bill, by="Sam")
    record = UsageRecord.objects.get()

    admin_client.post(page_of(record, "void"), {"reason": "Counted twice."})

    other = Bill.objects.exclude(pk=bill.pk).get()
    for shown in (bill, other):
        (entry,) = HistoryEntry.objects.filter(bill=shown, action="voided")
        assert entry.record == record
        assert "Counted twice." in text_of(admin_client.get(page_of(shown)))


def test_a_void_on_its_own_bill_is_kept_once(admin_client: Client, bill: Bill) -> None:
    record = UsageRecord.objects.get()

    admin_client.post(page_of(record, "void"), {"reason": "Counted twice."})

    assert HistoryEntry.objects.count() == 1


def test_a_close_and_its_entry_have_the_same_instant(bill: Bill) -> None:
    close(bill, by="Sam", reason="The customer leaves.")

    assert HistoryEntry.objects.get().at == bill.closed_at


def test_a_void_and_its_entries_have_the_same_instant(bill: Bill) -> None:
    close(bill, by="Sam")
    void_record = void(UsageRecord.objects.get(), reason="Counted twice.", by="Sam")

    voided = HistoryEntry.objects.filter(action="voided")
    assert [entry.at for entry in voided] == [void_record.recorded_at] * 2


def test_a_void_that_is_refused_is_not_kept(bill: Bill) -> None:
    record = UsageRecord.objects.get()
    void(record, reason="Counted twice.", by="Sam")

    with pytest.raises(VoidRefused):
        void(record, reason="Counted twice.", by="Mallory")

    assert [entry.actor for entry in HistoryEntry.objects.all()] == ["Sam"]


def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the database refuse whatever is added to the history."""

    def refuse(*_: object, **__: object) -> None:
        raise IntegrityError("The history is full.")

    monkeypatch.setattr(HistoryEntry, "save", refuse)


def test_no_bill_is_closed_without_its_entry(bill: Bill, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)

    with pytest.raises(IntegrityError):
        close(bill, by="Sam")

    assert not Bill.objects.get().is_closed


def test_no_record_is_voided_without_its_entry(bill: Bill, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)

    with pytest.raises(IntegrityError):
        void(UsageRecord.objects.get(), reason="Counted twice.", by="Sam")

    assert UsageRecord.objects.count() == 1
    assert Bill.objects.get().total == Decimal("2.90")


@pytest.mark.parametrize(("by", "reason"), [("", ""), ("x" * 151, ""), ("Sam", "x" * 501)])
def test_closing_requires_a_name_and_a_short_reason(bill: Bill, by: str, reason: str) -> None:
    with pytest.raises(ValidationError):
        close(bill, by=by, reason=reason)

    assert not Bill.objects.get().is_closed


@pytest.mark.parametrize("by", ["", "x" * 151])
def test_voiding_requires_a_name(bill: Bill, by: str) -> None:
    with pytest.raises(VoidRefused, match="Name who voids the record"):
        void(UsageRecord.objects.get(), reason="Counted twice.", by=by)

    assert UsageRecord.objects.count() == 1


def test_the_history_outlives_the_account(bill: Bill) -> None:
    user = User.objects.create_user("Sam")
    close(bill, by=user)

    user.delete()

    assert HistoryEntry.objects.get().actor == "Sam"


def test_a_reason_is_shown_whole_and_once(admin_client: Client, bill: Bill) -> None:
    reason = "Counted twice, as the team found. " * 14 + "Really."
    close(bill, by="Sam", reason=reason)

    assert text_of(admin_client.get(page_of(bill))).count(reason) == 1


def test_a_long_history_goes_on_on_the_next_page(admin_client: Client, bill: Bill) -> None:
    number = 2 * HISTORY_SHOWN + 1
    for verified in range(number):
        HistoryEntry.objects.keep(
            HistoryEntry.Action.VERIFIED,
            bill_id=bill.pk,
            by=f"Sam {verified}",
            at=bill.period_start,
        )

    url, found = page_of(bill), []
    while url:
        context = admin_client.get(url).context
        found.append([str(row["actor"]) for row in context["history"]])
        url = context["earlier_url"] and page_of(bill) + context["earlier_url"]

    assert [len(page) for page in found] == [HISTORY_SHOWN, HISTORY_SHOWN, 1]
    assert len(set(chain(*found))) == number


def test_the_admin_has_no_form_for_the_history(admin_client: Client) -> None:
    assert admin_client.get("/admin/usage/historyentry/").status_code == 404


def test_djangos_own_history_leads_to_the_page_that_has_one(
    admin_client: Client, bill: Bill
) -> None:
    response = admin_client.get(f"/admin/usage/bill/{bill.pk}/history/")

    assert response.status_code == 302
    assert response["Location"] == f"/admin/usage/bill/{bill.pk}/change/#history"
