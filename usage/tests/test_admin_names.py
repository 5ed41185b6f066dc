"""Names that are HTML, run right to left or are very long are shown harmlessly everywhere."""

from decimal import Decimal

import pytest
from django.test import Client

from usage.ledger.void import void
from usage.models import ApiKey, UsageRecord
from usage.tests.factories import CustomerFactory
from usage.tests.staff import list_of, page_of, report, text_of

# Other tests measure this code.
pytestmark = [pytest.mark.django_db, pytest.mark.once, pytest.mark.no_cover]

SCRIPT = "<script>alert(1)</script>"
NAMES = [
    SCRIPT,
    "\"><img src=x onerror='alert(1)'>",
    "=1+1",
    "שלום \N{RIGHT-TO-LEFT OVERRIDE}abc",
    "漢" * 200,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_on_every_page(admin_client: Client, name: str) -> None:
    customer = CustomerFactory.create(name=name)
    api_key, _ = ApiKey.objects.issue(name=name.replace("\N{RIGHT-TO-LEFT OVERRIDE}", "")[:100])
    bill = report(
        customer_id=customer.pk,
        service=name.replace("\N{RIGHT-TO-LEFT OVERRIDE}", "")[:100],
        request_id="<script>alert(2)</script>",
        reported_by=api_key,
    )
    service = UsageRecord.objects.get().service
    report(customer_id=customer.pk, service=service, price_per_unit=Decimal(7), reported_by=api_key)
    record = UsageRecord.objects.get(pk="<script>alert(2)</script>")
    void_record = void(record, reason=name, by=name[:150])

    for address in (
        "/admin/",
        *(list_of(model) for model in ("customer", "bill", "usagerecord", "apikey")),
        *(page_of(row) for row in (customer, bill, record, void_record, api_key)),
        page_of(bill, "close"),
        page_of(record, "void"),
        page_of(api_key, "revoke"),
        list_of("usagerecord", bill=bill.pk, customer=customer.pk),
    ):
        page = text_of(admin_client.get(address))
        assert "<script>alert" not in page
        assert "<img src=x" not in page


def test_every_page_is_under_its_list_and_the_application(admin_client: Client) -> None:
    bill = report(customer_id=CustomerFactory.create().pk)

    for address in (list_of("bill"), page_of(bill), page_of(bill, "close")):
        page = text_of(admin_client.get(address))
        breadcrumbs = page[page.index('<div class="breadcrumbs">') :].split("</div>")[0]
        assert '<a href="/admin/usage/">Usage</a>' in breadcrumbs


def test_a_name_cannot_turn_the_id_beside_it_around(admin_client: Client) -> None:
    customer = CustomerFactory.create(id=902, name="\N{RIGHT-TO-LEFT OVERRIDE}abc")
    bill = report(customer_id=customer.pk)

    for address in (
        "/admin/",
        list_of("bill"),
        list_of("usagerecord"),
        page_of(bill),
        page_of(bill, "close"),
    ):
        assert "abc</bdi> (902)" in text_of(admin_client.get(address))


def test_pages_of_ours_have_no_inline_script_or_style(admin_client: Client) -> None:
    customer = CustomerFactory.create()
    bill = report(customer_id=customer.pk)
    record = UsageRecord.objects.get()

    for address in (
        "/admin/",
        *(list_of(model) for model in ("customer", "bill", "usagerecord", "apikey")),
        *(page_of(row) for row in (customer, bill, record)),
        page_of(bill, "close"),
        page_of(record, "void"),
    ):
        page = text_of(admin_client.get(address))
        assert "<style" not in page
        assert " style=" not in page
        assert "<script>" not in page
        assert " onclick=" not in page
