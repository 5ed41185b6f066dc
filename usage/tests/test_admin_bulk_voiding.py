"""All records that the filters show are voided behind one confirmation."""

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from usage.admin import bulk_voiding
from usage.ledger.bulk_void import void_all
from usage.ledger.close import close
from usage.models import ApiKey, Bill, Customer, HistoryEntry, UsageRecord
from usage.tests.conftest import DatabaseClock
from usage.tests.staff import list_of, messages_of, queries, report, staff, text_of

pytestmark = pytest.mark.django_db

VOID_MANY = "/admin/usage/usagerecord/void-many/?service=Wrong"


@pytest.fixture
def wrong(customer: Customer, database_clock: DatabaseClock) -> Bill:
    """Seven wrong records, three of them on a closed bill, and right ones beside them."""
    api_key, _ = ApiKey.objects.issue(name="CDN")
    database_clock.set("2026-10-10T12:00:00Z")
    bill = report(3, service="Wrong", reported_by=api_key)
    report(service="Right")
    database_clock.set("2026-11-10T12:00:00Z")
    close(bill, by="Sam")
    report(service="Right")
    return report(4, service="Wrong", reported_by=api_key)


def voided() -> int:
    return len(UsageRecord.objects.filter(voids__isnull=False))


def form_of(client: Client, **changes: Any) -> dict[str, Any]:
    form = client.get(VOID_MANY).context["form"]
    return {"up_to": form["up_to"].value(), "count": 7, "reason": "Counted twice.", **changes}


def test_the_list_leads_there_once_filters_are_set(admin_client: Client, wrong: Bill) -> None:
    assert "Void these" not in text_of(admin_client.get(list_of("usagerecord")))
    assert f'href="{VOID_MANY}"' in text_of(
        admin_client.get(list_of("usagerecord", service="Wrong"))
    )


def test_the_preview_says_what_would_be_voided(admin_client: Client, wrong: Bill) -> None:
    response = admin_client.get(VOID_MANY)

    context = response.context
    assert (context["number"], context["sums"]) == ("7", ["$20.30"])
    assert (context["open_bills"], context["closed_bills"]) == ("1 open bill", "1 closed bill")
    assert len(context["examples"]) == 7
    assert voided() == 0


def test_the_preview_of_a_customer_has_examples_from_several_bills(
    admin_client: Client, wrong: Bill
) -> None:
    examples = admin_client.get(f"{VOID_MANY}&customer=123").context["examples"]

    assert len(examples) == 7


def test_the_examples_of_one_moment_are_in_the_order_of_their_ids(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-11-10T12:00:00Z")
    ids = [f"wrong:{number}" for number in (5, 2, 4, 1, 3)]
    for request_id in ids:
        report(request_id=request_id, service="Wrong")

    examples = admin_client.get(VOID_MANY).context["examples"]

    assert [example["request_id"] for example in examples] == sorted(ids)


def test_typing_the_number_voids_each_record(admin_client: Client, wrong: Bill) -> None:
    response = admin_client.post(VOID_MANY, form_of(admin_client), follow=True)

    assert messages_of(response) == ["7 records voided."]
    assert response.redirect_chain == [(list_of("usagerecord", service="Wrong"), 302)]
    assert voided() == 7
    assert Bill.objects.closed().get().total == Decimal("11.60")
    assert wrong.total == Decimal("-5.80")
    entries = HistoryEntry.objects.filter(action="bulkvoid")
    assert {entry.bill_id for entry in entries} == set(Bill.objects.values_list("pk", flat=True))
    assert len(entries) == 2
    assert {(entry.actor, entry.reason) for entry in entries} == {("admin", "Counted twice.")}


def test_a_form_sent_after_the_session_ended_comes_back_with_its_reason(
    client: Client, admin_user: User, wrong: Bill
) -> None:
    response: Any = client.post(VOID_MANY, {"count": 7, "reason": "Counted twice."}, follow=True)
    address = response.context["next"]

    client.force_login(admin_user)
    form = client.get(address).context["form"]
    data = {"up_to": form["up_to"].value(), "count": 7, "reason": form["reason"].value()}

    assert data["reason"] == "Counted twice."
    assert messages_of(client.post(address, data, follow=True)) == ["7 records voided."]


def test_another_number_voids_nothing(admin_client: Client, wrong: Bill) -> None:
    page = text_of(admin_client.post(VOID_MANY, form_of(admin_client, count=6)))

    assert "There are 7 records to void. Type that number." in page
    assert voided() == 0


def test_records_that_arrive_after_the_preview_change_nothing(
    admin_client: Client, wrong: Bill, database_clock: DatabaseClock
) -> None:
    form = form_of(admin_client)
    database_clock.set("2026-11-10T12:00:00.001Z")
    report(service="Wrong", request_id="new")

    admin_client.post(VOID_MANY, form)

    assert voided() == 7
    assert UsageRecord.objects.get(pk="new").void_record is None


BEYOND_THE_CALENDAR = ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59")


@pytest.mark.parametrize(
    "change",
    [
        {"reason": " "},
        {"reason": "x" * 501},
        *({"up_to": text} for text in ("soon", "2026-11-10", *BEYOND_THE_CALENDAR)),
    ],
)
def test_a_form_that_does_not_fit_voids_nothing(
    admin_client: Client, wrong: Bill, change: dict[str, str]
) -> None:
    page = text_of(admin_client.post(VOID_MANY, form_of(admin_client, **change)))

    assert "errorlist" in page
    assert voided() == 0


def test_many_records_go_on_in_requests_that_stay_short(
    admin_client: Client, wrong: Bill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_voiding, "CHUNK", 3)

    def use_up_the_seconds(*values: Any, **others: Any) -> int:
        monkeypatch.setattr(bulk_voiding, "SECONDS_PER_REQUEST", -1)
        return void_all(*values, **others)

    monkeypatch.setattr(bulk_voiding, "void_all", use_up_the_seconds)

    response = admin_client.post(VOID_MANY, form_of(admin_client))

    assert "3 of 7 records voided." in text_of(response)
    assert voided() == 3
    rest = dict(response.context["values"])
    monkeypatch.setattr(bulk_voiding, "SECONDS_PER_REQUEST", 1000)
    monkeypatch.setattr(bulk_voiding, "void_all", void_all)
    response = admin_client.post(VOID_MANY, rest, follow=True)
    assert messages_of(response) == ["7 records voided."]
    assert HistoryEntry.objects.filter(action="bulkvoid").count() == 2


def test_more_than_a_page_voids_are_left_to_the_command(
    admin_client: Client, wrong: Bill, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = form_of(admin_client)
    monkeypatch.setattr(bulk_voiding, "MOST_RECORDS", 6)

    page = text_of(admin_client.get(f"{VOID_MANY}&customer=123"))
    admin_client.post(VOID_MANY, form)

    assert "manage.py void_records --customer 123 --service Wrong --reason …" in page
    assert "Void the records" not in page
    assert voided() == 0


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("customer=Alice", "--customer 123"),
        ("reported_by=CDN", "--key {key}"),
        ("service=+Wrong&voids=none&late=", "--service Wrong"),
        ("service=Wrong&q=nothing", ""),
        ("service=Wrong&amount=1", ""),
    ],
)
def test_the_command_takes_the_options_that_the_page_shows(
    admin_client: Client, wrong: Bill, query: str, options: str
) -> None:
    key = ApiKey.objects.get().pk

    command = admin_client.get(f"/admin/usage/usagerecord/void-many/?{query}").context["command"]

    expected = f"manage.py void_records {options.format(key=key)} --reason …"
    assert command == (expected if options else "")


def test_the_records_are_downloaded_before_and_after(admin_client: Client, wrong: Bill) -> None:
    csv_url = admin_client.get(VOID_MANY).context["csv_url"]
    before = b"".join(admin_client.get(csv_url).streaming_content)  # type: ignore[attr-defined]
    admin_client.post(VOID_MANY, form_of(admin_client))

    after = b"".join(admin_client.get(csv_url).streaming_content)  # type: ignore[attr-defined]

    assert before == after
    assert len(before.splitlines()) == 8


@pytest.mark.parametrize("query", ["", "?q=+", "?o=1", "?customer=&voids="])
def test_without_filters_it_goes_back_to_the_list(
    admin_client: Client, wrong: Bill, query: str
) -> None:
    address = f"/admin/usage/usagerecord/void-many/{query}"
    assert "Void these" not in text_of(admin_client.get(list_of("usagerecord") + query))

    for response in (
        admin_client.get(address, follow=True),
        admin_client.post(address, form_of(admin_client, count=9), follow=True),
    ):
        assert messages_of(response) == ["Set filters first: they choose the records to void."]
    assert voided() == 0


def test_a_malformed_filter_is_not_found(admin_client: Client, wrong: Bill) -> None:
    assert admin_client.get("/admin/usage/usagerecord/void-many/?since=soon").status_code == 404


@pytest.mark.parametrize("permission", ["view_usagerecord", "change_bill"])
def test_it_needs_the_permission_to_change_records(
    admin_client: Client, wrong: Bill, permission: str
) -> None:
    form = form_of(admin_client)
    viewer = staff(permission)

    assert viewer.get(VOID_MANY).status_code == 403
    assert viewer.post(VOID_MANY, form).status_code == 403
    if permission == "view_usagerecord":
        page = text_of(viewer.get(list_of("usagerecord", service="Wrong")))
        assert "Void these" not in page
    assert voided() == 0


def test_the_preview_takes_few_queries(admin_client: Client, wrong: Bill) -> None:
    admin_client.get(VOID_MANY)

    with queries() as statements:
        admin_client.get(VOID_MANY)

    assert len(statements) <= 15
