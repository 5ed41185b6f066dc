"""Many due bills are closed from one list behind one confirmation."""

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from usage.admin import bulk_closing
from usage.ledger.close import close
from usage.ledger.hold import hold
from usage.ledger.void import void
from usage.models import Bill, HistoryEntry, UsageCheck, UsageRecord
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.tests.staff import messages_of, page_of, queries, report, staff, text_of

pytestmark = pytest.mark.django_db

TO_CLOSE = "/admin/usage/bill/to-close/"


@pytest.fixture
def bills(database_clock: DatabaseClock) -> list[Bill]:
    """Four due bills: the first is far over its usual total, the second is on hold."""
    customers = [CustomerFactory.create(name=f"No. {number}").pk for number in range(4)]
    for month in ("08", "09", "10"):
        database_clock.set(f"2026-{month}-10T12:00:00Z")
        for customer_id in customers:
            amount = Decimal(9000 if month == "10" and customer_id == customers[0] else 200)
            report(customer_id=customer_id, units=amount, price_per_unit=Decimal(1))
    database_clock.set("2026-11-20T12:00:00Z")
    for bill in Bill.objects.filter(month__lt="2026-10-01"):
        close(bill, by="Sam")
    bills = list(Bill.objects.open().order_by("customer"))
    hold(bills[1], by="Sam", reason="Disputed.")
    return bills


@pytest.fixture
def chosen(admin_client: Client, bills: list[Bill]) -> list[str]:
    """What the list sends for the bills that it ticks."""
    rows = admin_client.get(TO_CLOSE).context["rows"]
    return [row["value"] for row in rows if not (row["is_blocked"] or row["is_held"])]


def confirmed(client: Client, chosen: list[str], **data: Any) -> Any:
    values = client.post(TO_CLOSE, {"bill": chosen}).context["values"]
    return client.post(TO_CLOSE, {"bill": values, "confirmed": "1", **data}, follow=True)


def closed() -> int:
    return len(Bill.objects.closed().filter(month="2026-10-01"))


def test_the_list_has_blocked_bills_first_and_unticked_and_held_ones_without_a_box(
    admin_client: Client, bills: list[Bill]
) -> None:
    response = admin_client.get(TO_CLOSE)

    rows = response.context["rows"]
    assert [(row["is_blocked"], row["is_held"]) for row in rows] == [
        (True, False),
        (False, False),
        (False, False),
        (False, True),
    ]
    page = text_of(response)
    assert (page.count('type="checkbox"'), page.count(" checked>")) == (3, 2)
    assert "45 times the average of the 3 months before" in page
    assert response.context["sums"] == [(4, "$9,600.00")]
    assert (rows[0]["comparison"]["previous"], rows[0]["comparison"]["average"]) == (
        "$200.00",
        "$200.00",
    )


def test_the_confirmation_says_what_will_be_closed(
    admin_client: Client, bills: list[Bill], chosen: list[str]
) -> None:
    response = admin_client.post(TO_CLOSE, {"bill": chosen})

    assert "Close 2 bills" in text_of(response)
    assert response.context["sums"] == [(2, "$400.00")]
    assert response.context["flagged"] == []
    assert closed() == 0


def test_confirming_closes_each_bill_with_a_history_entry_of_its_own(
    admin_client: Client, bills: list[Bill], chosen: list[str]
) -> None:
    response = confirmed(admin_client, chosen, reason="October.")

    assert messages_of(response) == ["2 closed."]
    assert closed() == 2
    entries = HistoryEntry.objects.filter(action="closed", bill__in=bills)
    assert {(entry.actor, entry.reason) for entry in entries} == {("admin", "October.")}
    assert {entry.bill_id for entry in entries} == {bills[2].pk, bills[3].pk}


def test_a_bill_closed_meanwhile_is_counted_apart(
    admin_client: Client, bills: list[Bill], chosen: list[str]
) -> None:
    values = admin_client.post(TO_CLOSE, {"bill": chosen}).context["values"]
    close(bills[2], by="Kim")

    response = admin_client.post(TO_CLOSE, {"bill": values, "confirmed": "1"}, follow=True)

    assert messages_of(response) == ["1 closed, 1 was closed already."]


def test_the_confirmation_leaves_out_bills_that_are_closed_already(
    admin_client: Client, bills: list[Bill], chosen: list[str]
) -> None:
    close(bills[2], by="Kim")

    response = admin_client.post(TO_CLOSE, {"bill": chosen})

    assert "Close 1 bill?" in text_of(response)
    assert "Beside them, 1 bill of those chosen is closed already." in text_of(response)
    assert response.context["sums"] == [(1, "$200.00")]
    close(bills[3], by="Kim")
    response = admin_client.post(TO_CLOSE, {"bill": chosen}, follow=True)
    assert messages_of(response) == ["The bills chosen are closed already; nothing was changed."]


def test_the_confirmation_names_a_bill_whose_total_is_no_longer_that_of_the_list(
    admin_client: Client, bills: list[Bill], chosen: list[str]
) -> None:
    void(UsageRecord.objects.get(bill=bills[2]), reason="Wrong.", by="Kim")

    response = admin_client.post(TO_CLOSE, {"bill": chosen})

    assert "The list showed $200.00." in text_of(response)
    assert [row["bill"]["total"] for row in response.context["flagged"]] == ["$0.00"]
    assert "Close 2 bills?" in text_of(response)


def test_one_due_bill_is_counted_in_the_singular(
    admin_client: Client, bills: list[Bill], chosen: list[str]
) -> None:
    for bill in bills[2:]:
        close(bill, by="Kim")
    assert "2 bills are due to close: their month" in text_of(admin_client.get(TO_CLOSE))

    close(bills[0], by="Kim")

    assert "1 bill is due to close: its month" in text_of(admin_client.get(TO_CLOSE))


def test_a_bill_that_moved_is_left_open_and_named(
    admin_client: Client, bills: list[Bill], chosen: list[str]
) -> None:
    values = [value.replace(":200:", ":199.99:") if n else value for n, value in enumerate(chosen)]

    response = admin_client.post(TO_CLOSE, {"bill": values, "confirmed": "1"}, follow=True)

    done, left = messages_of(response)
    assert done == "1 closed."
    assert f"Bill {bills[3].pk} of No. 3" in left
    assert "was left open. The total was 199.99 USD and is now 200." in left


def test_a_bill_put_on_hold_meanwhile_is_left_open(
    admin_client: Client, bills: list[Bill], chosen: list[str]
) -> None:
    hold(bills[2], by="Kim", reason="Wait.")

    response = confirmed(admin_client, chosen)

    assert (
        "The bill is on hold: release it before you close it. Reason: Wait."
        in messages_of(response)[1]
    )
    assert closed() == 1


def test_flagged_bills_are_named_on_the_confirmation_and_closed_if_chosen(
    admin_client: Client, bills: list[Bill]
) -> None:
    value = admin_client.get(TO_CLOSE).context["rows"][0]["value"]

    response = admin_client.post(TO_CLOSE, {"bill": [value]})
    assert "45 times the average" in text_of(response)
    confirmed(admin_client, [value])

    assert closed() == 1


def test_many_bills_go_on_in_requests_that_stay_short(
    admin_client: Client, bills: list[Bill], chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def use_up_the_seconds(bill: Bill, **others: Any) -> bool:
        monkeypatch.setattr(bulk_closing, "SECONDS_PER_REQUEST", -1)
        return close(bill, **others)

    monkeypatch.setattr(bulk_closing, "close", use_up_the_seconds)

    response = confirmed(admin_client, chosen, reason="October.")

    assert "1 of 2 bills done." in text_of(response)
    assert closed() == 1
    rest: dict[str, list[str]] = {}
    for name, value in response.context["values"]:
        rest.setdefault(name, []).append(str(value))
    monkeypatch.setattr(bulk_closing, "SECONDS_PER_REQUEST", 1000)
    monkeypatch.setattr(bulk_closing, "close", close)
    response = admin_client.post(TO_CLOSE, rest, follow=True)
    assert messages_of(response) == ["2 closed."]
    reasons = HistoryEntry.objects.filter(action="closed", actor="admin")
    assert [entry.reason for entry in reasons] == ["October.", "October."]


DAMAGED = [
    *("x", "1:2", "1:x:", "x:1:", "-1:1:", f"{10**30}:1:"),
    *("1:NaN:", "1:sNaN:", "1:Infinity:", "1:1e999999:"),
]


def test_a_damaged_form_closes_nothing(admin_client: Client, bills: list[Bill]) -> None:
    for value in DAMAGED:
        response = admin_client.post(TO_CLOSE, {"bill": [value], "confirmed": "1"}, follow=True)

        said = messages_of(response)
        assert said == ["Nothing was closed: the form is damaged. Choose again."], value
    assert closed() == 0


def test_without_a_choice_nothing_is_asked(admin_client: Client, bills: list[Bill]) -> None:
    assert messages_of(admin_client.post(TO_CLOSE, follow=True)) == ["Choose the bills to close."]


def test_a_viewer_sees_the_list_and_closes_nothing(bills: list[Bill], chosen: list[str]) -> None:
    viewer = staff("view_bill")

    assert "checkbox" not in text_of(viewer.get(TO_CLOSE))
    assert viewer.post(TO_CLOSE, {"bill": chosen, "confirmed": "1"}).status_code == 403
    assert closed() == 0


def test_the_list_needs_the_permission_to_see_bills(bills: list[Bill]) -> None:
    assert staff("view_customer").get(TO_CLOSE).status_code == 403


def test_the_list_costs_the_same_for_more_bills(
    admin_client: Client, bills: list[Bill], database_clock: DatabaseClock
) -> None:
    admin_client.get(TO_CLOSE)
    with queries() as few:
        admin_client.get(TO_CLOSE)
    database_clock.set("2026-10-10T12:00:00Z")
    for number in range(70):
        pk = CustomerFactory.create(name=f"Customer with a rather long name {number}").pk
        report(customer_id=pk, units=Decimal(300), price_per_unit=Decimal(1))
    database_clock.set("2026-11-20T12:00:00Z")

    with queries() as many:
        response = admin_client.get(TO_CLOSE)

    assert len(few) == len(many) <= 15
    assert len(response.content) < 60_000
    assert len(response.context["rows"]) == 60
    following = admin_client.get(TO_CLOSE, {"after": response.context["next_after"]})
    assert len(following.context["rows"]) == 14


def test_the_first_page_leads_to_the_list(admin_client: Client, bills: list[Bill]) -> None:
    assert f'href="{reverse("admin:usage_bill_to-close")}"' in text_of(admin_client.get("/admin/"))


def test_bills_that_the_last_check_flagged_are_on_the_first_page(
    admin_client: Client, bills: list[Bill], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_closing, "BILLS_SHOWN", 1)
    UsageCheck.objects.create(
        finished_at=bills[3].period_end, bills=4, blocking=1, informing=0, flagged=[bills[3].pk]
    )

    urls: list[str] = []
    after = ""
    while len(urls) < 4:
        context = admin_client.get(TO_CLOSE, {"after": after}).context
        urls += [row["bill"]["url"] for row in context["rows"]]
        after = context["next_after"]

    assert urls == [page_of(bill) for bill in (bills[3], *bills[:3])]
    assert after == ""


@pytest.mark.parametrize("after", ["x", "1-x", "2-1", "1-" + "9" * 30])
def test_a_damaged_address_is_not_found(admin_client: Client, after: str) -> None:
    assert admin_client.get(TO_CLOSE, {"after": after}).status_code == 404
