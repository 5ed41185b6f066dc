"""Voiding a record is a POST behind a page that says what will happen."""

import pytest
from django.test import Client

from usage.ledger.close import close
from usage.ledger.void import void
from usage.models import Customer, HistoryEntry, UsageRecord
from usage.tests.conftest import DatabaseClock
from usage.tests.staff import messages_of, page_of, report, staff, text_of

pytestmark = pytest.mark.django_db
REASON = {"reason": "Counted twice."}


@pytest.fixture
def record(customer: Customer, database_clock: DatabaseClock) -> UsageRecord:
    database_clock.set("2026-11-23T12:00:00Z")
    report(request_id="cdn:2026-11-22:17")
    return UsageRecord.objects.get()


def test_a_post_with_a_reason_voids_the_record(admin_client: Client, record: UsageRecord) -> None:
    response = admin_client.post(page_of(record, "void"), REASON, follow=True)

    assert response.redirect_chain == [(page_of(record), 302)]
    assert messages_of(response) == [f"The record is voided on bill {record.bill_id}."]
    void = record.void_record
    assert void is not None
    assert (void.void_reason, void.voided_by) == ("Counted twice.", "admin")
    assert record.bill.total == 0
    entry = HistoryEntry.objects.get()
    assert (entry.actor, entry.record_id) == ("admin", record.pk)


def test_the_page_before_says_what_will_happen_and_changes_nothing(
    admin_client: Client, record: UsageRecord
) -> None:
    page = text_of(admin_client.get(page_of(record, "void")))

    assert "−$2.90" in page
    assert f"record's bill {record.bill_id}, which is open" in page
    assert record.void_record is None
    assert not HistoryEntry.objects.exists()


def test_the_page_before_says_that_a_closed_bill_stays(
    admin_client: Client, record: UsageRecord
) -> None:
    close(record.bill, by="Sam")

    page = text_of(admin_client.get(page_of(record, "void")))

    assert "goes on the customer's current bill" in page.replace("&#x27;", "'")


@pytest.mark.parametrize("reason", ["", "   ", "x" * 501])
def test_a_void_without_a_fitting_reason_is_refused(
    admin_client: Client, record: UsageRecord, reason: str
) -> None:
    response = admin_client.post(page_of(record, "void"), {"reason": reason})

    assert "errorlist" in text_of(response)
    assert record.void_record is None


def test_voiding_twice_changes_nothing(admin_client: Client, record: UsageRecord) -> None:
    admin_client.post(page_of(record, "void"), REASON)

    page = text_of(admin_client.get(page_of(record, "void")))
    response = admin_client.post(page_of(record, "void"), REASON, follow=True)

    assert "voided already" in page
    assert messages_of(response)[-1] == f"Nothing was changed: {record.pk} is voided already."
    assert UsageRecord.objects.count() == 2
    assert HistoryEntry.objects.count() == 1


def test_a_void_cannot_be_voided(admin_client: Client, record: UsageRecord) -> None:
    void_record = void(record, reason="Counted twice.", by="admin")

    assert "cannot be voided" in text_of(admin_client.get(page_of(void_record, "void")))
    assert "Void this record" not in text_of(admin_client.get(page_of(void_record)))
    response = admin_client.post(page_of(void_record, "void"), REASON, follow=True)

    assert "A void cannot be voided" in messages_of(response)[-1]
    assert UsageRecord.objects.count() == 2


def test_the_record_and_its_void_lead_to_each_other(
    admin_client: Client, record: UsageRecord
) -> None:
    void_record = void(record, reason="Counted twice.", by="Sam")

    assert page_of(void_record) in text_of(admin_client.get(page_of(record)))
    page = text_of(admin_client.get(page_of(void_record)))
    assert page_of(record) in page
    assert "Counted twice." in page
    assert "Sam" in page


def test_a_viewer_cannot_void(record: UsageRecord) -> None:
    viewer = staff("view_usagerecord")

    assert "Void this record" not in text_of(viewer.get(page_of(record)))
    assert viewer.get(page_of(record, "void")).status_code == 403
    assert viewer.post(page_of(record, "void"), REASON).status_code == 403
    assert record.void_record is None


def test_the_change_permission_is_enough(record: UsageRecord) -> None:
    voider = staff("change_usagerecord")

    assert voider.post(page_of(record, "void"), REASON).status_code == 302
    void = record.void_record
    assert void is not None
    assert void.voided_by == "Sam"


def test_the_page_of_a_voided_record_says_who_voided_it_and_why(
    admin_client: Client, customer: Customer
) -> None:
    report(request_id="wrong")
    record = UsageRecord.objects.get()
    void(record, reason="Sent twice.\nThe team knows.", by="Kim")

    page = text_of(admin_client.get(page_of(record)))

    for said in ("Kim", "Sent twice.\nThe team knows.", "void wrong"):
        assert said in page
