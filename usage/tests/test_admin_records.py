"""What staff see of usage records, and how they find one."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.html import escape

from usage.admin import record_list
from usage.ledger.close import close
from usage.ledger.void import void
from usage.models import ApiKey, Customer, UsageRecord
from usage.tests.conftest import DatabaseClock
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


@pytest.mark.no_cover  # other tests measure this code
@pytest.mark.parametrize(
    "request_id",
    [
        ".",
        "..",
        "...",
        "_2E",
        "a/b",
        "../x",
        "%2F",
        "_2F",
        "?q=1#x",
        "<script>",
        "'\"&;",
        "x" * 128,
        "change",
    ],
)
def test_every_request_id_has_a_page_of_its_own(
    admin_client: Client, customer: Customer, request_id: str
) -> None:
    report(request_id=request_id)
    record = UsageRecord.objects.get()

    assert admin_client.get(page_of(record)).context["original"] == record
    assert not {".", ".."} & set(page_of(record).split("/"))
    listed = text_of(admin_client.get(list_of("usagerecord")))
    assert f'href="{escape(page_of(record))}' in listed
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

    assert str(bill) in text_of(admin_client.get(list_of("usagerecord", bill=bill.pk)))
    assert str(bill) not in text_of(admin_client.get(list_of("usagerecord")))
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


@pytest.mark.parametrize("service", ["Zürich", "Zu\u0308rich", " Zu\u0308rich "])
def test_a_service_is_found_in_any_normal_form(
    admin_client: Client, customer: Customer, service: str
) -> None:
    report(request_id="a", service="Zürich")

    assert found(admin_client, service=service) == ["a"]


@pytest.mark.parametrize("asked", ["id", "prefix", "name"])
def test_an_api_key_is_found_by_id_prefix_or_name(
    admin_client: Client, customer: Customer, asked: str
) -> None:
    keys = [ApiKey.objects.issue(name="CDN team")[0] for _ in range(2)]
    for number, api_key in enumerate(keys):
        report(request_id=f"{number}", reported_by=api_key)
    value = {"id": keys[0].pk, "prefix": keys[0].prefix, "name": "cdn TEAM"}[asked]

    assert sorted(found(admin_client, reported_by=value)) == (
        ["0", "1"] if asked == "name" else ["0"]
    )


def test_a_customer_is_found_by_name_and_several_are_named(
    admin_client: Client, customer: Customer
) -> None:
    CustomerFactory.create(id=456, name="Alina")
    report(request_id="a")
    report(request_id="b", customer_id=456)

    assert found(admin_client, customer="ALICE") == ["a"]
    assert found(admin_client, customer="ina") == ["b"]
    refused = admin_client.get(list_of("usagerecord", customer="Ali"))
    assert messages_of(refused) == [
        "Several customers have 'Ali' in the name: Alice (123), Alina (456). Type the id of one."
    ]


@pytest.mark.measured
def test_records_are_found_by_amount_exactly(admin_client: Client, customer: Customer) -> None:
    price = Decimal("0.000000000001")
    report(request_id="less", units=Decimal("999999999999.999999"), price_per_unit=price)
    report(request_id="much", units=Decimal(999999999999), price_per_unit=Decimal(1))
    report(request_id="one", units=Decimal(1), price_per_unit=Decimal(1))

    assert sorted(found(admin_client, amount="1")) == ["much", "one"]
    assert sorted(found(admin_client, amount="0.999999999999999999")) == ["less", "much", "one"]
    assert found(admin_client, amount="1.000000000001") == ["much"]


def test_records_are_found_by_the_day_of_recording(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    for day in (10, 11, 12):
        database_clock.set(f"2026-11-{day}T12:00:00Z")
        report(request_id=f"{day}", occurred_at=dt.datetime(2026, 11, 1, tzinfo=dt.UTC))

    assert found(admin_client, recorded_since="2026-11-11") == ["12", "11"]
    assert found(admin_client, recorded_until="2026-11-11", service="Database Hosting") == [
        "11",
        "10",
    ]
    assert found(admin_client, recorded_since="2026-11-11", recorded_until="2026-11-11") == ["11"]


def test_records_are_found_by_whether_they_are_voided(
    admin_client: Client, customer: Customer
) -> None:
    report(request_id="kept")
    report(request_id="wrong")
    void(UsageRecord.objects.get(pk="wrong"), reason="A test.", by="Sam")

    assert found(admin_client, voids="none") == ["kept"]
    assert found(admin_client, voids="voided") == ["wrong"]
    assert found(admin_client, voids="1") == ["void wrong"]


def test_a_void_recorded_more_than_a_year_after_its_usage_is_in_lists_with_a_last_day(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-01-10T12:00:00Z")
    report(request_id="old")
    database_clock.set("2027-03-01T12:00:00Z")
    void(UsageRecord.objects.get(), reason="A test.", by="Sam")

    assert found(admin_client, until="2026-01-31") == ["void old", "old"]
    assert found(admin_client, until="2026-01-31", customer=123) == ["void old", "old"]


def test_a_result_is_counted_and_added_up_by_currency(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    CustomerFactory.create(id=456, currency="JPY")
    report(3)
    report(customer_id=456)

    def summary(**query: Any) -> str:
        return str(admin_client.get(list_of("usagerecord", **query)).context["summary"])

    assert summary() == ""
    assert summary(customer=123) == "3 records: $8.70"
    assert summary(service="Database Hosting") == "4 records: ¥2.9, $8.70"
    monkeypatch.setattr(record_list, "LOOKED_THROUGH", 2)
    assert summary(customer=123) == "More than 2 records."
    assert summary(customer=123, service="Database Hosting") == (
        "2 records among the newest 2 looked through: $5.80"
    )


def test_the_filters_are_one_form(admin_client: Client, customer: Customer) -> None:
    page = text_of(admin_client.get(list_of("usagerecord", service="Storage", customer=123)))

    form = page[page.index('id="changelist-search"') :].partition("</form>")[0]
    for name in ("q", "service", "customer", "since", "amount", "recorded_until", "voids"):
        assert f'name="{name}"' in form
    assert form.count('type="submit"') == 1
    assert '<noscript><input type="text" name="customer" value="123"' in form


def test_a_search_for_spaces_is_none(admin_client: Client, customer: Customer) -> None:
    report()

    changelist = admin_client.get(list_of("usagerecord", q="  ")).context["cl"]

    assert (changelist.is_narrowed, len(changelist.result_list)) == (False, 1)


def test_empty_fields_of_the_form_are_no_filters(admin_client: Client, customer: Customer) -> None:
    report()

    response = admin_client.get(
        list_of("usagerecord", q="", service="", customer="", since="", voids="", bill="")
    )

    changelist = response.context["cl"]
    assert len(changelist.result_list) == 1
    assert not changelist.is_narrowed
    assert changelist.export_query == ""


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
        ({"since": "20261101"}, "'20261101' is not a first day. Write it as 2026-11-01."),
        ({"reported_by": "x"}, "No API key has the id, the public prefix or the name 'x'."),
        (
            {"customer": "abc"},
            "No customer has 'abc' in the name. Type another part of it, or the id.",
        ),
        ({"bill": "abc"}, "'abc' is not a bill. Write it as 123."),
        ({"bill": "0" * 25 + "1"}, f"'{'0' * 25}1' is not a bill. Write it as 123."),
        ({"amount": "much"}, "'much' is not a least amount. Write it as 1000.50."),
        ({"amount": "NaN"}, "'NaN' is not a least amount. Write it as 1000.50."),
        ({"amount": "1e99999999"}, "'1e99999999' is not a least amount. Write it as 1000.50."),
        ({"amount": "1e-99999999"}, "'1e-99999999' is not a least amount. Write it as 1000.50."),
        ({"recorded_since": "x"}, "'x' is not a first day of recording. Write it as 2026-11-01."),
        ({"voids": "2"}, "'2' is not a kind. Use 1, voided, none or leave it out."),
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
    assert searched.context["cl"].result_list == []
