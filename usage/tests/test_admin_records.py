"""What staff see of usage records, and how they find one."""

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from usage.ledger.close import close
from usage.ledger.void import void
from usage.models import ApiKey, Customer, UsageRecord
from usage.tests.factories import CustomerFactory
from usage.tests.staff import list_of, messages_of, page_of, report, text_of

pytestmark = pytest.mark.django_db


def found(client: Client, **query: Any) -> list[str]:
    """Return the ids that a list shows."""
    return [
        record.pk
        for record in client.get(list_of("usagerecord", **query)).context["cl"].result_list
    ]


def test_a_record_page_shows_the_reporter_and_the_time(
    admin_client: Client, customer: Customer
) -> None:
    api_key, _ = ApiKey.objects.issue(name="CDN team")
    report(
        request_id="cdn:1",
        units=Decimal("1234567.5"),
        price_per_unit=Decimal("0.000001"),
        reported_by=api_key,
    )
    record = UsageRecord.objects.get()

    page = text_of(admin_client.get(page_of(record)))

    for shown in (
        "cdn:1",
        "Alice</bdi> (123)",
        "1,234,567.5",
        "$0.000001",
        "$1.2345675",
        "CDN team",
    ):
        assert shown in page
    assert f"{record.recorded_at:%Y-%m-%d %H:%M:%S}" in page


@pytest.mark.parametrize(
    "request_id", ["a/b", "../x", "%2F", "_2F", "?q=1#x", "<script>", "'\"&;", "x" * 128, "change"]
)
def test_every_request_id_has_a_page_of_its_own(
    admin_client: Client, customer: Customer, request_id: str
) -> None:
    report(request_id=request_id)
    record = UsageRecord.objects.get()

    assert admin_client.get(page_of(record)).context["original"] == record
    assert found(admin_client, q=request_id) == [request_id]
    void_record = void(record, reason="A test.", by="Sam")
    assert admin_client.get(page_of(void_record)).context["original"] == void_record


def test_search_finds_a_record_and_its_void_by_the_exact_id(
    admin_client: Client, customer: Customer
) -> None:
    report(request_id="fact")
    report(request_id="fact2")
    report(request_id="FACT")
    void(UsageRecord.objects.get(pk="fact"), reason="A test.", by="Sam")

    assert sorted(found(admin_client, q=" fact ")) == ["fact", "void fact"]
    assert found(admin_client, q="void fact") == ["void fact"]
    assert found(admin_client, q="fac") == []
    assert found(admin_client, q="ünknown") == []
    assert found(admin_client, q="x" * 200) == []


def test_filters_keep_to_a_customer_a_bill_late_usage_or_voids(
    admin_client: Client, customer: Customer
) -> None:
    CustomerFactory.create(id=456)
    early = report(request_id="early")
    close(early, by="Sam")
    bill = report(request_id="late", occurred_at=early.period_start)
    report(request_id="other", customer_id=456)
    void(UsageRecord.objects.get(pk="other"), reason="A test.", by="Sam")

    assert found(admin_client, bill=early.pk) == ["early"]
    assert found(admin_client, bill=bill.pk) == ["late"]
    assert sorted(found(admin_client, customer=123)) == ["early", "late"]
    assert found(admin_client, late=1) == ["late"]
    assert found(admin_client, voids=1) == ["void other"]
    assert found(admin_client, customer=456, voids=1) == ["void other"]
    assert found(admin_client, customer=123, voids=1) == []
    assert found(admin_client, bill=bill.pk, customer=456) == []


def test_the_bill_filter_names_the_bill_and_can_be_left(
    admin_client: Client, customer: Customer
) -> None:
    bill = report()

    assert "By bill" in text_of(admin_client.get(list_of("usagerecord", bill=bill.pk)))
    assert "By bill" not in text_of(admin_client.get(list_of("usagerecord")))
    assert "No such bill" in text_of(admin_client.get(list_of("usagerecord", bill=bill.pk + 1)))


@pytest.mark.parametrize("query", [{"late": "yes"}, {"voids": "0"}, {"bill": "x"}, {"bill": "\0"}])
def test_a_malformed_filter_shows_no_record(
    admin_client: Client, customer: Customer, query: dict[str, str]
) -> None:
    report()

    response = admin_client.get(list_of("usagerecord", **query))

    assert (response.status_code, response.context["cl"].result_list) == (400, [])
    assert len(messages_of(response)) == 1


def test_a_record_that_is_not_there_is_not_found(admin_client: Client) -> None:
    assert admin_client.get(page_of(UsageRecord(pk="missing"))).status_code == 404


def test_filters_by_service_price_key_and_day(admin_client: Client, customer: Customer) -> None:
    api_key, _ = ApiKey.objects.issue(name="CDN")
    bill = report(request_id="a", service="Storage", price_per_unit=Decimal("0.5"))
    record = report(request_id="b", service="Compute", reported_by=api_key).records.get(pk="b")
    day = f"{record.occurred_at:%Y-%m-%d}"

    assert found(admin_client, service="Storage") == ["a"]
    assert found(admin_client, service="Storage", bill=bill.pk, price="0.50") == ["a"]
    assert found(admin_client, service="stor") == []
    assert found(admin_client, reported_by=api_key.pk) == ["b"]
    assert found(admin_client, reported_by=api_key.pk + 1) == []
    assert sorted(found(admin_client, since=day, until=day)) == ["a", "b"]
    assert found(admin_client, since="2999-01-01") == []
    assert found(admin_client, until="1999-01-01") == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"price": "0,05"}, "'0,05' is not a unit price. Write it as 0.05."),
        ({"price": "-1"}, "'-1' is not a unit price. Write it as 0.05."),
        ({"price": "NaN"}, "'NaN' is not a unit price. Write it as 0.05."),
        ({"price": "1e40"}, "'1e40' is not a unit price. Write it as 0.05."),
        ({"since": "0001-01-01"}, "'0001-01-01' is not a first day. Write it as 2026-11-01."),
        ({"until": "9999-12-31"}, "'9999-12-31' is not a last day. Write it as 2026-11-30."),
        ({"since": "soon"}, "'soon' is not a first day. Write it as 2026-11-01."),
        ({"reported_by": "x"}, "'x' is not a valid API key id. Use a number such as 123."),
        ({"customer": "abc"}, "'abc' is not a valid customer id. Use a number such as 123."),
    ],
)
def test_a_malformed_value_is_named_and_can_be_corrected(
    admin_client: Client, customer: Customer, query: dict[str, str], said: str
) -> None:
    report()

    response = admin_client.get(list_of("usagerecord", **query))

    assert (response.status_code, response.context["cl"].result_list) == (400, [])
    assert messages_of(response) == [said]
    assert response.context["cl"].params == query


def test_a_record_is_in_the_currency_of_its_bill(admin_client: Client) -> None:
    customer = CustomerFactory.create(currency="JPY")
    report(customer_id=customer.pk, price_per_unit=Decimal("0.5"))

    assert "¥29" in text_of(admin_client.get(list_of("usagerecord")))
    assert "¥29" in text_of(admin_client.get(page_of(UsageRecord.objects.get())))


def test_a_search_with_a_nul_finds_nothing_on_either_database(
    admin_client: Client, customer: Customer
) -> None:
    report()
    query = {"app_label": "usage", "model_name": "bill", "field_name": "customer", "term": "a\0b"}

    found = admin_client.get(reverse("admin:autocomplete", query=query)).json()
    filtered = admin_client.get(list_of("usagerecord", service="a\0b"))
    searched = admin_client.get(list_of("usagerecord", q="a\0b"))

    assert found["results"] == []
    assert (filtered.status_code, filtered.context["cl"].result_list) == (400, [])
    assert messages_of(searched) == ["Null characters are not allowed."]
