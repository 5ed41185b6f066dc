"""Closing a bill is a POST behind a page that says what will happen."""

from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from django.test import Client

from usage.database.transactions import DatabaseUnavailable
from usage.ledger.close import CloseRefused, close
from usage.ledger.hold import hold
from usage.models import Bill, Customer, HistoryEntry, Hold
from usage.tests.conftest import DatabaseClock
from usage.tests.staff import list_of, messages_of, page_of, report, staff, text_of

pytestmark = pytest.mark.django_db

SHOWN = {"expected_total": "2.90"}


@pytest.fixture
def bill(customer: Customer, database_clock: DatabaseClock) -> Bill:
    database_clock.set("2026-11-23T12:00:00Z")
    return report()


def test_a_post_closes_the_bill_and_says_so(admin_client: Client, bill: Bill) -> None:
    response = admin_client.post(page_of(bill, "close"), SHOWN, follow=True)

    assert response.redirect_chain == [(page_of(bill), 302)]
    assert messages_of(response) == ["The bill is closed. Its total is $2.90."]
    bill.refresh_from_db()
    assert bill.is_closed
    entry = HistoryEntry.objects.get()
    assert (entry.action, entry.bill_id, entry.actor) == ("closed", bill.pk, "admin")


def test_the_page_before_says_what_will_happen_and_changes_nothing(
    admin_client: Client, bill: Bill
) -> None:
    page = text_of(admin_client.get(page_of(bill, "close")))

    assert "closed for ever" in page
    assert "$2.90" in page
    assert "opens a bill for the rest of the month" in page
    bill.refresh_from_db()
    assert not bill.is_closed
    assert not HistoryEntry.objects.exists()


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
    response = admin_client.post(page_of(bill, "close"), SHOWN, follow=True)

    assert "closed already" in page
    assert 'value="Close the bill"' not in page
    assert messages_of(response) == ["The bill was closed already; nothing was changed."]
    assert HistoryEntry.objects.get().actor == "Sam"


def test_a_bill_that_has_not_begun_stays_open(
    admin_client: Client, bill: Bill, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-10-31T23:58:00Z")

    page = text_of(admin_client.get(page_of(bill, "close")))
    response = admin_client.post(page_of(bill, "close"), SHOWN, follow=True)

    assert "has not begun" in page
    assert "close it after that" in messages_of(response)[0]
    bill.refresh_from_db()
    assert not bill.is_closed


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            CloseRefused("The total is too large."),
            "Nothing was changed: The total is too large.",
        ),
        (DatabaseUnavailable("away"), "The database does not answer. Whether this was done"),
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

    monkeypatch.setattr("usage.admin.closing.close", fail)

    response = admin_client.post(page_of(bill, "close"), SHOWN, follow=True)

    assert messages_of(response)[0].startswith(said)


def test_a_viewer_cannot_close(bill: Bill) -> None:
    viewer = staff("view_bill")

    assert "Close this bill" not in text_of(viewer.get(page_of(bill)))
    assert viewer.get(page_of(bill, "close")).status_code == 403
    assert viewer.post(page_of(bill, "close"), SHOWN).status_code == 403
    bill.refresh_from_db()
    assert not bill.is_closed


def test_the_change_permission_is_enough(bill: Bill) -> None:
    closer = staff("change_bill")

    assert "Close this bill" in text_of(closer.get(page_of(bill)))
    assert closer.post(page_of(bill, "close"), SHOWN).status_code == 302
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


def test_a_bill_that_changed_is_shown_again_and_stays_open(
    admin_client: Client, bill: Bill
) -> None:
    report(units=Decimal(20_000_000))

    response = admin_client.post(page_of(bill, "close"), {**SHOWN, "reason": "The end."})

    page = text_of(response)
    assert "The total was 2.9 USD and is now 1000002.9. Look again" in page
    assert 'value="1000002.9"' in page
    assert "The end.</textarea>" in page
    assert not Bill.objects.get().is_closed


@pytest.mark.parametrize("total", ["", "x", "NaN", "Infinity", "1e99999999", "9" * 2000])
def test_a_post_that_shows_no_total_closes_nothing(
    admin_client: Client, bill: Bill, total: str
) -> None:
    page = text_of(admin_client.post(page_of(bill, "close"), {"expected_total": total}))

    assert "The total that the page showed is missing." in page
    assert not Bill.objects.get().is_closed


@pytest.fixture
def absurd(customer: Customer, database_clock: DatabaseClock) -> Bill:
    for month in ("08", "09", "10", "11"):
        database_clock.set(f"2026-{month}-10T12:00:00Z")
        amount = Decimal(2_000_000 if month == "11" else 200)
        bill = report(units=amount, price_per_unit=Decimal(1))
    return bill


def test_the_page_compares_the_total_and_shows_what_needs_attention(
    admin_client: Client, absurd: Bill
) -> None:
    page = text_of(admin_client.get(page_of(absurd, "close")))

    assert page.count("$200.00") == 2
    for shown in ("$2,000,000.00", "10,000 times the average", "over 10 times"):
        assert shown in page
    assert "Database Hosting</bdi>, $2,000,000.00" in page


def test_a_high_total_is_closed_only_with_its_box_ticked(
    admin_client: Client, absurd: Bill
) -> None:
    form = admin_client.get(page_of(absurd, "close")).context["form"]
    shown = {name: form[name].value() for name in ("expected_total", "flags")}

    response = admin_client.post(page_of(absurd, "close"), shown)
    absurd.refresh_from_db()
    assert "is_right" in response.context["form"].errors
    assert not absurd.is_closed
    admin_client.post(page_of(absurd, "close"), {**shown, "is_right": "on"})

    absurd.refresh_from_db()
    assert absurd.is_closed


def test_a_direct_post_cannot_leave_out_what_was_found(admin_client: Client, absurd: Bill) -> None:
    shown = {"expected_total": "2000000", "flags": ""}

    page = text_of(admin_client.post(page_of(absurd, "close"), shown))

    assert "The bill now needs attention: high total." in page
    absurd.refresh_from_db()
    assert not absurd.is_closed


def test_a_reason_counts_a_line_break_once(admin_client: Client, bill: Bill) -> None:
    reason = "x\r\n" * 250

    admin_client.post(page_of(bill, "close"), {**SHOWN, "reason": reason[:-2] + "y"})

    assert bill.history.get().reason == "x\n" * 249 + "xy"


# Holds


def test_a_bill_is_put_on_hold_and_released(admin_client: Client, bill: Bill) -> None:
    response = admin_client.post(page_of(bill, "hold"), {"reason": "Disputed."}, follow=True)

    assert messages_of(response) == ["The bill is on hold."]
    page = text_of(response)
    assert ">on hold<" in page
    assert "Disputed." in page
    assert "Close this bill" not in page
    assert ">on hold<" in text_of(admin_client.get(list_of("bill", state="held")))
    response = admin_client.post(page_of(bill, "release"), {"reason": "Settled."}, follow=True)
    assert messages_of(response) == ["The bill is no longer on hold."]
    assert [entry.action for entry in bill.history.order_by("id")] == ["held", "released"]


def test_a_bill_on_hold_is_not_closed_by_page_or_post(admin_client: Client, bill: Bill) -> None:
    hold(bill, by="Sam", reason="Disputed.")

    said = "The bill is on hold: release it before you close it. Reason: Disputed."
    assert said in text_of(admin_client.get(page_of(bill, "close")))
    response = admin_client.post(page_of(bill, "close"), SHOWN, follow=True)

    assert messages_of(response)[0].startswith("Nothing was changed: The bill is on hold")
    assert not Bill.objects.get().is_closed


@pytest.mark.parametrize("action", ["hold", "release"])
def test_a_viewer_neither_holds_nor_releases(bill: Bill, action: str) -> None:
    viewer = staff("view_bill")
    if action == "release":
        hold(bill, by="Sam", reason="Disputed.")

    assert viewer.get(page_of(bill, action)).status_code == 403
    assert viewer.post(page_of(bill, action), {"reason": "No."}).status_code == 403
    assert Hold.objects.exists() == (action == "release")


def test_holding_needs_a_reason(admin_client: Client, bill: Bill) -> None:
    response = admin_client.post(page_of(bill, "hold"), {"reason": " "})

    assert "errorlist" in text_of(response)
    assert not Hold.objects.exists()
