"""What needs attention is one list, and is shown on each bill."""

import datetime as dt
from decimal import Decimal
from urllib.parse import urlsplit

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from usage.models import AcceptedDuplicates, ApiKey, Bill, Customer, HistoryEntry, Traffic
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.tests.staff import list_of, messages_of, page_of, queries, report, staff, text_of

pytestmark = pytest.mark.django_db

ATTENTION = "/admin/usage/bill/attention/"


@pytest.fixture(autouse=True)
def now(database_clock: DatabaseClock) -> dt.datetime:
    return database_clock.set("2026-11-23T12:00:00Z")


@pytest.fixture
def bill(customer: Customer, now: dt.datetime) -> Bill:
    """A bill whose second record repeats the first."""
    report(request_id="cdn:210", occurred_at=now)
    bill = report(request_id="cdn:210-again", occurred_at=now)
    check()
    return bill


def check() -> None:
    with pytest.raises(CommandError):
        call_command("check_usage")


def test_the_list_names_customer_finding_amount_and_day(admin_client: Client, bill: Bill) -> None:
    response = admin_client.get(ATTENTION)

    ((url, _, _, finding),) = response.context["blocking"]
    assert (url, finding["amount"], finding["since"]) == (page_of(bill), "$2.90", "2026-11-23")
    page = text_of(response)
    for shown in (
        "Alice",
        "Possible duplicates",
        "cdn:210-again</a> is the same as",
        "It is right",
    ):
        assert shown in page
    assert "the check of <time" in page


def test_a_finding_leads_to_its_records(admin_client: Client, bill: Bill) -> None:
    url = admin_client.get(ATTENTION).context["blocking"][0][-1]["url"]

    assert len(admin_client.get(url).context["cl"].result_list) == 2


def test_without_a_check_the_page_says_so(admin_client: Client, customer: Customer) -> None:
    report()

    page = text_of(admin_client.get(ATTENTION))

    assert "Possible duplicates have not been looked for yet" in page
    assert "Nothing blocks closing." in page


def test_the_bill_and_its_closing_page_show_it_too(admin_client: Client, bill: Bill) -> None:
    for address in (page_of(bill), page_of(bill, "close")):
        assert "1 more of the same under other request_ids" in text_of(admin_client.get(address))


def test_due_bills_are_listed_oldest_first(
    admin_client: Client, database_clock: DatabaseClock
) -> None:
    for month in ("09", "08"):
        database_clock.set(f"2026-{month}-10T12:00:00Z")
        report(customer_id=CustomerFactory.create().pk)
    database_clock.set("2026-11-23T12:00:00Z")

    rows = admin_client.get(ATTENTION).context["informing"]

    assert [period for _, _, period, _ in rows] == ["August 2026", "September 2026"]


def test_a_silent_key_is_listed_for_those_who_may_see_traffic(
    admin_client: Client, customer: Customer, now: dt.datetime
) -> None:
    api_key, _ = ApiKey.objects.issue(name="CDN")
    for back in range(10, 40):
        day = now.date() - dt.timedelta(days=back)
        Traffic.objects.create(api_key=api_key, day=day, created=1)

    assert "Silent for 10 days" in text_of(admin_client.get(ATTENTION))
    assert "Silent for" not in text_of(staff("view_bill").get(ATTENTION))


def test_accepting_duplicates_asks_once_until_it_is_lifted(
    admin_client: Client, bill: Bill
) -> None:
    address = page_of(bill, "accept") + "?service=Database+Hosting"
    reason = {"reason": "A team reports equal facts."}

    assert "until you ask again" in text_of(admin_client.get(address))
    response = admin_client.post(address, reason, follow=True)

    assert messages_of(response) == ["Equal records of Database Hosting are right."]
    assert response.context["findings"] == []
    assert "A team reports equal facts." in text_of(response)
    assert not admin_client.get(ATTENTION).context["blocking"]
    admin_client.post(page_of(bill, "lift") + "?service=Database+Hosting")
    assert admin_client.get(ATTENTION).context["blocking"]
    kept = HistoryEntry.objects.order_by("id").values_list("action", "reason", "detail")
    assert list(kept) == [
        ("accepted", reason["reason"], "Service: Database Hosting"),
        ("lifted", "", "Service: Database Hosting"),
    ]


def test_lifting_what_is_not_accepted_says_so(admin_client: Client, bill: Bill) -> None:
    address = page_of(bill, "lift") + "?service=Database+Hosting"

    response = admin_client.post(address, follow=True)

    assert messages_of(response) == [
        "Nothing was changed: Equal records of this service are not accepted."
    ]
    assert not HistoryEntry.objects.exists()


@pytest.mark.parametrize("act", ["accept", "lift"])
@pytest.mark.parametrize("query", ["", "?service=", "?service=%00", f"?service={'x' * 101}"])
def test_an_address_without_a_service_is_not_found(
    admin_client: Client, bill: Bill, act: str, query: str
) -> None:
    address = page_of(bill, act) + query

    assert admin_client.get(address).status_code == 404
    assert admin_client.post(address, {"reason": "Right."}).status_code == 404


def test_duplicates_are_accepted_only_where_some_were_found(
    admin_client: Client, bill: Bill
) -> None:
    address = page_of(bill, "accept") + "?service=Other"

    assert "found no possible duplicates" in text_of(admin_client.get(address))
    admin_client.post(address, {"reason": "Right."})

    assert not AcceptedDuplicates.objects.exists()


def test_changing_records_is_the_permission_to_accept(bill: Bill) -> None:
    address = page_of(bill, "accept") + "?service=Database+Hosting"
    closer = staff("change_bill")

    assert "It is right" not in text_of(closer.get(page_of(bill)))
    assert closer.post(address, {"reason": "Right."}).status_code == 403
    assert closer.post(page_of(bill, "lift") + "?service=x").status_code == 403
    assert not AcceptedDuplicates.objects.exists()


def test_the_list_needs_the_permission_to_see_bills(bill: Bill) -> None:
    assert staff("view_customer").get(ATTENTION).status_code == 403


def test_the_list_is_paged_by_customer_and_costs_the_same_for_more(
    admin_client: Client, now: dt.datetime
) -> None:
    for number in range(45):
        customer = CustomerFactory.create(name=f"Customer number {number}")
        report(2, occurred_at=now, customer_id=customer.pk, units=Decimal(number + 1))
    check()
    admin_client.get(ATTENTION)

    with queries() as statements:
        response = admin_client.get(ATTENTION)

    assert len(statements) <= 15
    assert not [sql for sql in statements if "usage_usagerecord" in sql]
    assert len(response.content) < 60_000
    assert len(response.context["blocking"]) == 40
    following = admin_client.get(f"{ATTENTION}?{response.context['next_query']}")
    assert len(following.context["blocking"]) == 5


@pytest.mark.parametrize("after", ["x", "1-x", "9" * 30])
def test_a_damaged_address_is_not_found(admin_client: Client, after: str) -> None:
    assert admin_client.get(ATTENTION, {"after": after}).status_code == 404


def test_the_first_page_leads_to_the_list(admin_client: Client, bill: Bill) -> None:
    page = text_of(admin_client.get("/admin/"))

    assert f'href="{ATTENTION}"' in page
    assert "1 finding blocks closing" in page


def test_day_findings_lead_to_the_records_of_the_day(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    for day in range(1, 8):
        at = database_clock.set(f"2026-11-{day:02}T12:00:00Z")
        report(occurred_at=at, units=Decimal(10**6 if day == 7 else 1), price_per_unit=Decimal(1))

    ((*_, finding),) = admin_client.get(ATTENTION).context["blocking"]

    assert urlsplit(finding["url"]).path == list_of("usagerecord")
    assert len(admin_client.get(finding["url"]).context["cl"].result_list) == 1


def test_a_record_names_the_record_it_repeats(admin_client: Client, bill: Bill) -> None:
    for request_id, other in (("cdn:210", "cdn:210-again"), ("cdn:210-again", "cdn:210")):
        page = text_of(admin_client.get(page_of(bill.records.get(pk=request_id))))
        assert "Same as</dt><dd><a href=" in page
        assert f">{other}</a>" in page
