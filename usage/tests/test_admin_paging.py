"""Lists go from page to page without counting, in one fixed order, missing and repeating no row."""

import json
from itertools import chain
from typing import Any

import pytest
from django.test import Client

from usage.admin import paging, record_list
from usage.admin.pages import BillingAdmin
from usage.ledger.void import void
from usage.models import Customer, UsageRecord
from usage.tests.factories import CustomerFactory
from usage.tests.staff import list_of, messages_of, queries, report, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BillingAdmin, "list_per_page", 3)


def pages(client: Client, address: str, *, most: int = 20) -> list[list[Any]]:
    """Follow a list to its end; return the rows' keys, page by page."""
    base, shown = address.partition("?")[0], []
    for _ in range(most):
        changelist = client.get(address).context["cl"]
        shown.append([row.pk for row in changelist.result_list])
        if changelist.next_position is None:
            return shown
        address = base + changelist.next_query
    raise AssertionError("The list has no end.")


def test_records_of_one_moment_go_on_where_the_page_before_ended(
    admin_client: Client, customer: Customer
) -> None:
    report(7)
    report(3)

    shown = pages(admin_client, list_of("usagerecord"))

    assert [len(page) for page in shown] == [3, 3, 3, 1]
    everything = list(UsageRecord.objects.order_by("-recorded_at", "request_id"))
    assert list(chain(*shown)) == [record.pk for record in everything]


def test_a_full_last_page_has_no_next(admin_client: Client, customer: Customer) -> None:
    report(3)

    assert len(pages(admin_client, list_of("usagerecord"))) == 1


def test_a_page_stays_the_same_when_records_arrive(
    admin_client: Client, customer: Customer
) -> None:
    report(5)
    address = (
        list_of("usagerecord") + admin_client.get(list_of("usagerecord")).context["cl"].next_query
    )
    before = [row.pk for row in admin_client.get(address).context["cl"].result_list]

    report(4)

    after = [row.pk for row in admin_client.get(address).context["cl"].result_list]
    assert after == before


def test_bills_and_customers_are_paged_too(admin_client: Client) -> None:
    for customer in CustomerFactory.create_batch(4):
        report(customer_id=customer.pk)

    assert [len(page) for page in pages(admin_client, list_of("bill"))] == [3, 1]
    assert [len(page) for page in pages(admin_client, list_of("customer"))] == [3, 1]
    assert [len(page) for page in pages(admin_client, list_of("bill", state="open"))] == [3, 1]


def test_later_pages_lead_back_to_the_first(admin_client: Client, customer: Customer) -> None:
    report(4)
    first = admin_client.get(list_of("usagerecord", customer=123))

    second = admin_client.get(list_of("usagerecord") + first.context["cl"].next_query)

    assert "First page" not in text_of(first)
    assert "First page" in text_of(second)
    assert second.context["cl"].get_query_string() == "?customer=123"


def test_more_filters_than_an_index_serves_look_through_a_bounded_number(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_list, "LOOKED_THROUGH", 4)
    report(1, request_id="a")
    void(UsageRecord.objects.get(), reason="A test.", by="Sam")
    report(10)

    address = list_of("usagerecord", customer=123, voids=1)

    assert pages(admin_client, address) == [[], [], ["void a"]]
    page = text_of(admin_client.get(address))
    assert "Looked through 4 usage records" in page
    assert "Nothing found so far." in page


def test_a_bounded_page_that_is_full_goes_on_after_its_last_row(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_list, "LOOKED_THROUGH", 8)
    bill = report(10)

    shown = pages(admin_client, list_of("usagerecord", customer=123, bill=bill.pk))

    assert [len(page) for page in shown] == [3, 3, 3, 1]
    assert len(set(chain(*shown))) == 10


def test_a_page_that_long_names_cut_short_goes_on_after_its_last_row(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "NAMES_BYTES", 1000)
    monkeypatch.setattr(record_list, "LOOKED_THROUGH", 8)
    bill = report(2, service="short")
    for number in range(5):
        report(service="x" * 100, request_id=f"{number}" * 128)

    for address in (list_of("usagerecord"), list_of("usagerecord", customer=123, bill=bill.pk)):
        shown = pages(admin_client, address)
        assert [len(page) for page in shown] == [2, 2, 3]
        assert len(set(chain(*shown))) == 7


def test_a_row_too_long_for_a_page_is_alone_on_one(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "NAMES_BYTES", 1)
    report(3)

    assert [len(page) for page in pages(admin_client, list_of("usagerecord"))] == [1, 1, 1]


@pytest.mark.parametrize(
    "query", [{}, {"customer": 123}, {"customer": 123, "service": "Database Hosting"}]
)
def test_the_previous_pages_are_those_that_were_shown(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch, query: dict[str, Any]
) -> None:
    monkeypatch.setattr(record_list, "LOOKED_THROUGH", 8)
    report(10)
    base = list_of("usagerecord")
    changelist = admin_client.get(list_of("usagerecord", **query)).context["cl"]
    forwards = [[row.pk for row in changelist.result_list]]
    assert changelist.previous_position is None
    while changelist.next_position:
        changelist = admin_client.get(base + changelist.next_query).context["cl"]
        forwards.append([row.pk for row in changelist.result_list])

    backwards = [forwards[-1]]
    while changelist.previous_position:
        changelist = admin_client.get(base + changelist.previous_query).context["cl"]
        backwards.append([row.pk for row in changelist.result_list])

    assert len(forwards) == 4
    assert list(chain(*reversed(backwards))) == list(chain(*forwards))
    again = admin_client.get(base + changelist.next_query).context["cl"].result_list
    assert [row.pk for row in again] == forwards[1]


@pytest.mark.parametrize(
    "position",
    [
        "2",
        "[]",
        "{}",
        "null",
        "[" * 5000,
        '["2026-11-01"]',
        '["2026-11-01T00:00:00", "naive"]',
        '["2026-13-01T00:00:00+00:00", "x"]',
        '["2026-11-01T00:00:00+00:00", 5]',
        '["0001-01-01T00:00:00+23:59", "x"]',
        '["9999-12-31T23:59:59-23:59", "x"]',
        '<["9999-12-31T23:59:59-23:59", "x"]',
        "<",
        '["2026-11-01T00:00:00+00:00", "\\u0000"]',
        '["2026-11-01T00:00:00+00:00", "\\ud800"]',
    ],
)
def test_a_damaged_address_shows_no_record(
    admin_client: Client, customer: Customer, position: str
) -> None:
    report()

    response = admin_client.get(list_of("usagerecord", p=position))

    assert (response.status_code, response.context["cl"].result_list) == (400, [])
    assert messages_of(response) == ["The page's address is damaged. Go back to the first page."]


@pytest.mark.no_cover  # other tests measure this code
@pytest.mark.parametrize("model", ["customer", "bill", "apikey"])
@pytest.mark.parametrize("text", ["9" * 5000, "0" * 5000 + "1", "1e999", "NaN"])
def test_no_damaged_address_of_any_list_is_a_server_error(
    admin_client: Client, model: str, text: str
) -> None:
    for position in ([text], [text, text], ["2026-11-01", text, text]):
        for page in (json.dumps(position), f"<{json.dumps(position)}"):
            assert admin_client.get(list_of(model, p=page)).status_code in {200, 400}


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**40])
def test_a_key_beyond_the_databases_numbers_is_damage(admin_client: Client, number: int) -> None:
    customers = list_of("customer", p=json.dumps([str(number)]))
    bills = list_of("bill", p=json.dumps(["2026-11-01", str(number), "2026-11-01 00:00:00+00:00"]))

    assert [admin_client.get(page).status_code for page in (customers, bills)] == [400, 400]


def test_an_order_in_the_address_changes_nothing(admin_client: Client, customer: Customer) -> None:
    report(5)

    with queries() as statements:
        admin_client.get(list_of("usagerecord", o="5.-6", all="", _facets="True"))

    assert not [
        sql for sql in statements if "COUNT" in sql or 'ORDER BY "usage_usagerecord"."units"' in sql
    ]
    assert [sql for sql in statements if "LIMIT 4" in sql]
