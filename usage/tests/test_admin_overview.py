"""The first page says what needs attention."""

import pytest
from django.test import Client

from usage.admin import overview
from usage.models import Bill, Customer, HistoryEntry
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.tests.staff import page_of, report, staff, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def bill(customer: Customer, database_clock: DatabaseClock) -> Bill:
    database_clock.set("2026-11-23T12:00:00Z")
    return report()


def test_a_quiet_day(admin_client: Client) -> None:
    page = text_of(admin_client.get("/admin/"))

    for said in ("No bill is overdue.", "No usage has come late.", "Nobody has done anything yet."):
        assert said in page
    assert "Usage billing" in page


def test_overdue_bills_are_counted_and_listed(
    admin_client: Client, bill: Bill, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-12-10T12:00:00Z")
    CustomerFactory.create(id=456)
    report(customer_id=456)

    context = admin_client.get("/admin/").context

    assert (context["open_bills"], context["overdue_bills"]) == ("2", "1")
    (row,) = context["overdue"]
    assert (row.url, row.period, row.total) == (page_of(bill), "November 2026", "$2.90")


def test_counting_stops_somewhere(
    admin_client: Client, bill: Bill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "MOST_COUNTED", 0)

    assert admin_client.get("/admin/").context["open_bills"] == "> 0"


def test_late_usage_and_what_was_done_are_shown(admin_client: Client, bill: Bill) -> None:
    admin_client.post(page_of(bill, "close"))
    report(request_id="late", occurred_at=bill.period_start)

    context = admin_client.get("/admin/").context

    assert [record.request_id for record in context["late_records"]] == ["late"]
    assert [(entry.did, entry.url) for entry in context["done"]] == [
        ("closed the bill", page_of(bill))
    ]
    assert HistoryEntry.objects.count() == 1


def test_it_shows_only_what_the_user_may_see(bill: Bill) -> None:
    page = text_of(staff("view_customer").get("/admin/"))

    assert "Overdue" not in page
    assert "late usage" not in page
