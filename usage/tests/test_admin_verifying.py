"""Staff have a bill computed again from its records, and are told what does not agree."""

import pytest
from django.db import connection
from django.test import Client

from usage.admin import bills
from usage.database import triggers
from usage.ledger.close import close
from usage.models import Bill, Customer, HistoryEntry
from usage.tests.staff import messages_of, page_of, report, staff, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def bill(customer: Customer) -> Bill:
    return report(3)


def tamper(bill: Bill) -> None:
    """Change a daily sum of an open bill, which no guard can tell from usage that arrives."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE usage_dailyusage SET records = 7 WHERE bill_id = %s", [bill.pk])
    assert not triggers.faults(connection)


def test_a_bill_that_agrees_is_said_to(admin_client: Client, bill: Bill) -> None:
    response = admin_client.post(page_of(bill, "verify"), follow=True)

    assert messages_of(response) == [
        "The bill agrees with its records. 3 records read: no difference."
    ]
    assert HistoryEntry.objects.get().reason == "3 records read: no difference."


def test_a_difference_is_told(admin_client: Client, bill: Bill) -> None:
    tamper(bill)

    response = admin_client.post(page_of(bill, "verify"), follow=True)

    (said,) = messages_of(response)
    assert f"bill {bill.pk}" in said
    assert "I5" in said
    assert HistoryEntry.objects.get().reason == "3 records read: 1 difference."


def test_another_bills_difference_is_not_told(admin_client: Client, bill: Bill) -> None:
    close(bill, by="Sam")
    other = report()
    tamper(other)

    response = admin_client.post(page_of(bill, "verify"), follow=True)

    assert messages_of(response)[0].startswith("The bill agrees")


def test_the_page_before_reads_and_changes_nothing(admin_client: Client, bill: Bill) -> None:
    assert "its 3 records" in text_of(admin_client.get(page_of(bill, "verify")))
    assert not HistoryEntry.objects.exists()


def test_a_bill_too_large_for_a_page_is_left_to_the_command(
    admin_client: Client, bill: Bill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bills, "MOST_RECORDS_VERIFIED", 2)

    page = text_of(admin_client.get(page_of(bill, "verify")))
    response = admin_client.post(page_of(bill, "verify"), follow=True)

    assert f"verify_bills --bill {bill.pk}" in page
    assert f"verify_bills --bill {bill.pk}" in messages_of(response)[0]


def test_the_permission_to_see_a_bill_is_enough_to_verify_it(bill: Bill) -> None:
    viewer = staff("view_bill")

    assert messages_of(viewer.post(page_of(bill, "verify"), follow=True))
