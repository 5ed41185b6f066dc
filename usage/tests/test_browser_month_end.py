"""Month end as a clerk does it in a real browser, with the clicks counted."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command
from playwright.sync_api import expect

from usage.ledger.hold import hold
from usage.models import Bill, UsageRecord
from usage.tests.browsing import Staff
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.tests.staff import list_of, page_of, report

pytest_plugins = ["usage.tests.browser_fixtures"]


FEW = pytest.mark.parametrize("due", [6], indirect=True)


@pytest.fixture
def due(request: pytest.FixtureRequest, roles: None, database_clock: DatabaseClock) -> list[Bill]:
    """Fifty due bills, or a few."""
    database_clock.set("2026-10-10T12:00:00Z")
    customers = CustomerFactory.create_batch(getattr(request, "param", 50))
    for customer in customers:
        report(customer_id=customer.pk, units=Decimal(200), price_per_unit=Decimal(1))
    database_clock.set("2026-11-20T12:00:00Z")
    return list(Bill.objects.order_by("pk"))


def test_fifty_bills_are_closed_in_eight_clicks(staff: Staff, due: list[Bill]) -> None:
    staff.log_in("Billing staff")
    staff.open("/admin/")

    staff.click("50 bills due to close")
    staff.click("Close 50 selected…", role="button")
    staff.fill("Reason", "October.")
    staff.click("Close 50 bills", role="button")

    expect(staff.page.get_by_text("50 closed.")).to_be_visible()
    assert not Bill.objects.open().exists()
    assert staff.clicks <= 8


def test_many_closes_go_on_by_themselves(
    staff: Staff, due: list[Bill], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage.admin.bulk_closing.SECONDS_PER_REQUEST", 0.05)
    staff.log_in("Billing staff")
    staff.open("/admin/usage/bill/to-close/")

    staff.click("Close 50 selected…", role="button")
    staff.click("Close 50 bills", role="button")

    expect(staff.page.get_by_text("50 closed.")).to_be_visible()
    assert not Bill.objects.open().exists()


@FEW
def test_a_choice_counts_the_bills_chosen(staff: Staff, due: list[Bill]) -> None:
    hold(due[0], by="Kim", reason="Disputed.")
    staff.log_in("Billing staff")
    staff.open("/admin/usage/bill/to-close/")

    staff.page.get_by_role("checkbox").nth(3).uncheck()

    expect(staff.page.get_by_role("button", name="Close 4 selected…")).to_be_visible()


@FEW
def test_a_bill_is_held_in_three_clicks(staff: Staff, due: list[Bill]) -> None:
    staff.log_in("Billing staff")
    staff.open(page_of(due[0]))

    staff.click("Hold…")
    staff.fill("Reason", "Disputed.")
    staff.click("Hold the bill", role="button")

    expect(staff.page.get_by_text("The bill is on hold.")).to_be_visible()
    assert staff.clicks <= 3
    staff.click("Release…")
    staff.click("Release the bill", role="button")
    expect(staff.page.get_by_text("The bill is no longer on hold.")).to_be_visible()


@FEW
def test_a_bill_that_changes_is_asked_about_again(
    staff: Staff, due: list[Bill], database_clock: DatabaseClock
) -> None:
    staff.log_in("Billing staff")
    staff.open(page_of(due[0], "close"))
    staff.page.get_by_label("Reason").fill("The end.")
    database_clock.set("2026-10-10T12:00:00Z")
    report(customer_id=due[0].customer_id, units=Decimal(10**6), price_per_unit=Decimal(1))
    database_clock.set("2026-11-20T12:00:00Z")

    staff.click("Close the bill", role="button")

    expect(staff.page.get_by_text("The total was 200 USD and is now 1000200.")).to_be_visible()
    expect(staff.page.get_by_label("Reason")).to_have_value("The end.")
    staff.click("Close the bill", role="button")
    expect(
        staff.page.get_by_text("The bill is closed. Its total is $1,000,200.00.")
    ).to_be_visible()


@FEW
@pytest.mark.timeout(300)
def test_three_thousand_records_are_voided_in_eight_clicks(staff: Staff, due: list[Bill]) -> None:
    for _ in range(3):
        report(1000, customer_id=due[0].customer_id, service="Wrong")
    staff.log_in("Billing staff")
    staff.open(list_of("usagerecord", service="Wrong"))

    staff.click("Void these…")
    staff.fill("Number of records", "3000")
    staff.fill("Reason", "Counted twice.")
    staff.click("Void the records", role="button")

    done = staff.page.get_by_text("3000 records voided.")
    expect(done).to_be_visible(timeout=240_000)
    assert UsageRecord.objects.filter(voids__isnull=False).count() == 3000
    assert staff.clicks <= 8


@FEW
def test_a_team_that_honestly_repeats_itself_is_accepted(
    staff: Staff, due: list[Bill], database_clock: DatabaseClock
) -> None:
    now = database_clock.set("2026-11-20T12:00:00Z")
    report(3, customer_id=due[0].customer_id, occurred_at=now)
    with pytest.raises(CommandError):
        call_command("check_usage")
    staff.log_in("Billing staff")
    staff.open("/admin/")

    staff.click("Everything that needs attention")
    staff.click("It is right…")
    staff.fill("Reason", "One fact for each node.")
    staff.click("They are right", role="button")

    expect(staff.page.get_by_text("Equal records of Database Hosting are right.")).to_be_visible()
    staff.open("/admin/usage/bill/attention/")
    expect(staff.page.get_by_text("Nothing blocks closing.")).to_be_visible()


@FEW
def test_no_page_of_month_end_has_a_serious_violation_or_is_too_wide(
    staff: Staff, due: list[Bill], database_clock: DatabaseClock
) -> None:
    staff.log_in("Billing admins")
    now = database_clock.set("2026-11-20T12:00:00Z")
    report(2, customer_id=due[0].customer_id, occurred_at=now)
    with pytest.raises(CommandError):
        call_command("check_usage")
    hold(due[1], by="Kim", reason="Disputed.")
    current = Bill.objects.latest("period_start")
    faults = []

    for path in (
        "/admin/",
        "/admin/usage/bill/attention/",
        "/admin/usage/bill/to-close/",
        page_of(current),
        page_of(current, "close"),
        page_of(current, "hold"),
        page_of(due[1]),
        page_of(due[1], "release"),
        page_of(due[1], "close"),
        page_of(current, "accept") + "?service=Database+Hosting",
        "/admin/usage/usagerecord/void-many/?customer=" + str(due[0].customer_id),
    ):
        staff.open(path)
        faults += staff.faults()
    staff.open("/admin/usage/bill/to-close/")
    staff.click("Close 5 selected…", role="button")
    faults += staff.faults()

    assert faults == []
