"""Closing a bill is a POST behind a page that says what will happen."""

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client

from usage.database.transactions import DatabaseUnavailable
from usage.ledger.close import BillTotalTooLarge, close
from usage.models import Bill, Customer
from usage.tests.conftest import DatabaseClock
from usage.tests.staff import messages_of, page_of, report, staff, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def bill(customer: Customer, database_clock: DatabaseClock) -> Bill:
    database_clock.set("2026-11-23T12:00:00Z")
    return report()


def test_a_post_closes_the_bill_and_says_so(
    admin_client: Client, admin_user: User, bill: Bill
) -> None:
    response = admin_client.post(page_of(bill, "close"), follow=True)

    assert response.redirect_chain == [(page_of(bill), 302)]
    assert messages_of(response) == ["The bill is closed. Its total is $2.90."]
    bill.refresh_from_db()
    assert bill.is_closed
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id) == (admin_user, str(bill.pk))
    assert entry.change_message == "Closed at $2.90."


def test_the_page_before_says_what_will_happen_and_changes_nothing(
    admin_client: Client, bill: Bill
) -> None:
    page = text_of(admin_client.get(page_of(bill, "close")))

    assert "closed for ever" in page
    assert "$2.90" in page
    assert "opens a bill for the rest of the month" in page
    bill.refresh_from_db()
    assert not bill.is_closed
    assert not LogEntry.objects.exists()


def test_the_page_before_says_where_usage_goes_once_the_month_is_over(
    admin_client: Client, bill: Bill, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-12-10T00:00:00Z")

    page = text_of(admin_client.get(page_of(bill, "close")))

    assert "current bill, marked as late" in page
    assert "Its period ends at the moment" not in page


def test_closing_twice_changes_nothing(admin_client: Client, bill: Bill) -> None:
    close(bill, by="Sam")

    page = text_of(admin_client.get(page_of(bill, "close")))
    response = admin_client.post(page_of(bill, "close"), follow=True)

    assert "closed already" in page
    assert 'value="Close the bill"' not in page
    assert messages_of(response) == ["The bill was closed already; nothing was changed."]
    assert not LogEntry.objects.exists()


def test_a_bill_that_has_not_begun_stays_open(
    admin_client: Client, bill: Bill, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-10-31T23:58:00Z")

    page = text_of(admin_client.get(page_of(bill, "close")))
    response = admin_client.post(page_of(bill, "close"), follow=True)

    assert "has not begun" in page
    assert "close it after that" in messages_of(response)[0]
    bill.refresh_from_db()
    assert not bill.is_closed


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            BillTotalTooLarge("The total is too large."),
            "Nothing was changed: The total is too large.",
        ),
        (DatabaseUnavailable("away"), "The database did not answer in time"),
    ],
)
def test_what_goes_wrong_is_told(
    admin_client: Client,
    bill: Bill,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    said: str,
) -> None:
    def fail(bill: Bill, **_: object) -> bool:
        raise error

    monkeypatch.setattr("usage.admin.bills.close", fail)

    response = admin_client.post(page_of(bill, "close"), follow=True)

    assert messages_of(response)[0].startswith(said)
    assert not LogEntry.objects.exists()


def test_a_viewer_cannot_close(bill: Bill) -> None:
    viewer = staff("view_bill")

    assert "Close this bill" not in text_of(viewer.get(page_of(bill)))
    assert viewer.get(page_of(bill, "close")).status_code == 403
    assert viewer.post(page_of(bill, "close")).status_code == 403
    bill.refresh_from_db()
    assert not bill.is_closed


def test_the_change_permission_is_enough(bill: Bill) -> None:
    closer = staff("change_bill")

    assert "Close this bill" in text_of(closer.get(page_of(bill)))
    assert closer.post(page_of(bill, "close")).status_code == 302
    bill.refresh_from_db()
    assert bill.is_closed


def test_closing_requires_a_login(client: Client, bill: Bill) -> None:
    response = client.post(page_of(bill, "close"))

    assert response["Location"].startswith("/admin/login/")
    bill.refresh_from_db()
    assert not bill.is_closed


def test_closing_from_another_site_is_refused(bill: Bill, admin_user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)

    assert client.post(page_of(bill, "close")).status_code == 403
    bill.refresh_from_db()
    assert not bill.is_closed
