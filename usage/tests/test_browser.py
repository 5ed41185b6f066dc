"""Staff's pages in a real browser: accessible, and without a complaint on its console."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from django.db import transaction
from django.utils import timezone
from playwright.sync_api import Browser, expect
from pytest_django.live_server_helper import LiveServer

from usage.admin.bill_page import LINES_SHOWN
from usage.ledger.close import close
from usage.models import ApiKey, Bill, Customer, Refusal, RefusalNote, UsageRecord
from usage.tests.browsing import ROLES, SCREENS, Staff
from usage.tests.factories import CustomerFactory
from usage.tests.staff import list_of, page_of, report

pytest_plugins = ["usage.tests.browser_fixtures"]


@pytest.fixture
def bill(roles: None) -> Bill:
    customer: Customer = CustomerFactory.create(id=123, name="Acme <script>alert(1)</script>")
    api_key, _ = ApiKey.objects.issue(name="CDN")
    report(3, service="Storage", reported_by=api_key)
    note = RefusalNote(timezone.now(), 404, "unknown_customer", "No such customer.", "cdn:17")
    with transaction.atomic():
        Refusal.objects.keep({api_key.pk: [note]})
    return report(request_id="cdn:1", service="Compute", customer_id=customer.pk)


@pytest.mark.parametrize(
    ("staff", "role"), list(zip(SCREENS, ROLES, strict=True)), indirect=["staff"]
)
def test_every_role_exports_a_bill_and_follows_it_down_to_a_record(
    staff: Staff, bill: Bill, role: str
) -> None:
    staff.log_in_by_password(role)
    page = staff.page

    page.get_by_role("link", name="Bills", exact=True).first.click()
    page.get_by_role("link", name="Acme").click()
    lines = staff.download("Lines as CSV")
    records = staff.download("Records as CSV")
    page.get_by_label("1 records of this line").click()
    page.get_by_role("link", name="cdn:1").click()

    expect(page.get_by_role("heading", name="Usage record cdn:1")).to_be_visible()
    assert sum(Decimal(line["amount"]) for line in lines) == bill.total
    assert len(records) == 4


@pytest.mark.parametrize(
    ("staff", "role"),
    [("light", "Billing staff"), ("dark", "Billing admins"), ("phone", "Billing staff")],
    indirect=["staff"],
)
def test_who_may_voids_a_record_and_closes_the_bill(staff: Staff, bill: Bill, role: str) -> None:
    staff.log_in(role)
    page = staff.page

    staff.open(page_of(UsageRecord.objects.get(pk="cdn:1")))
    page.get_by_role("link", name="Void this record").click()
    page.get_by_label("Reason").fill("Counted twice.")
    page.get_by_role("button", name="Void the record").click()
    expect(page.get_by_text("The record is voided on bill")).to_be_visible()

    staff.open(page_of(bill))
    page.get_by_role("link", name="Close this bill").click()
    page.get_by_label("Reason").fill("The customer leaves.")
    page.get_by_role("button", name="Close the bill").click()
    expect(page.get_by_text("The bill is closed. Its total is $8.70.")).to_be_visible()
    expect(page.get_by_role("link", name="Close this bill")).to_have_count(0)
    history = page.get_by_role("region", name="History")
    for kept in ("Counted twice.", "The customer leaves."):
        expect(history.get_by_role("row").filter(has_text=kept)).to_contain_text("sam")


def test_a_viewer_finds_nothing_to_change(staff: Staff, bill: Bill) -> None:
    staff.log_in("Billing viewers")

    for row, action in ((bill, "Close this bill"), (bill.records.first(), "Void this record")):
        staff.open(page_of(row))
        expect(staff.page.get_by_role("link", name=action)).to_have_count(0)


def test_a_viewer_verifies_a_bill(staff: Staff, bill: Bill) -> None:
    staff.log_in("Billing viewers")
    page = staff.page

    staff.open(page_of(bill))
    page.get_by_role("link", name="Verify this bill").click()
    page.get_by_role("button", name="Verify the bill").click()

    expect(page.get_by_text("The bill agrees with its records.")).to_be_visible()


def test_a_bill_is_closed_by_keyboard_alone(staff: Staff, bill: Bill) -> None:
    staff.log_in("Billing staff")
    page = staff.page
    staff.open(page_of(bill))

    staff.tab_to("Close this bill…")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Close this bill?")).to_be_visible()
    staff.tab_to("Close the bill")
    page.keyboard.press("Enter")

    expect(page.get_by_text("The bill is closed.")).to_be_visible()


@pytest.mark.parametrize(("lines", "pages"), [(5, 1), (90, 3)])
def test_a_statement_prints_with_its_total_once(
    staff: Staff, bill: Bill, lines: int, pages: int
) -> None:
    for number in range(lines):
        report(customer_id=bill.customer_id, service=f"Virtual machine {number}")
    staff.log_in("Billing viewers")
    page = staff.page

    staff.open(page_of(bill))
    page.get_by_role("link", name="Statement").click()
    page.emulate_media(media="print")

    for of_the_screen in ("Print this page", "Log out", "Usage records"):
        expect(page.get_by_text(of_the_screen).first).to_be_hidden()
    expect(page.get_by_text("DRAFT").last).to_be_visible()
    expect(page.get_by_text("Total in USD")).to_have_count(1)
    printed = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == pages


def test_every_column_of_the_records_is_seen(staff: Staff, bill: Bill) -> None:
    staff.log_in("Billing viewers")
    report(request_id="7f3c1d52-9a0e-4a53-b1c4-2d9f0c6e8a11", units=Decimal("1234567.25"))

    staff.open(list_of("usagerecord"))

    for width in (1280, 1440):
        staff.page.set_viewport_size({"width": width, "height": 900})
        last = staff.page.locator("th.column-reported_by").bounding_box()
        assert last is not None
        assert last["x"] + last["width"] <= width
        results = staff.page.locator("#changelist .results")
        assert results.evaluate("table => table.scrollWidth <= table.clientWidth")


@pytest.mark.parametrize("staff", ["phone"], indirect=True)
def test_a_phone_shows_whose_bill_it_is_and_its_total(staff: Staff, bill: Bill) -> None:
    staff.log_in("Billing viewers")
    report(units=Decimal("123456.789"), price_per_unit=Decimal(10))

    for model, name in (("bill", "customer"), ("customer", "shown_name")):
        staff.open(list_of(model))
        row = staff.page.locator("#result_list tbody tr").first
        named, total = (row.locator(f".field-{cell}").bounding_box() for cell in (name, "total"))
        assert named is not None
        assert named["width"] >= 80
        assert total is not None
        assert total["x"] + total["width"] <= SCREENS["phone"]["viewport"]["width"]


def test_a_customer_is_chosen_by_typing(staff: Staff, bill: Bill) -> None:
    staff.log_in("Billing viewers")
    page = staff.page

    staff.open(list_of("usagerecord"))
    page.locator(".filters .select2-selection").click()
    page.keyboard.type("acme")
    page.get_by_role("option", name="Acme").click()
    page.get_by_label("Service").fill("Compute")
    page.get_by_role("button", name="Apply").click()

    expect(page.get_by_role("status")).to_have_text("1 record: $2.90")
    assert "customer=123" in page.url
    assert "service=Compute" in page.url


def test_a_customer_is_chosen_without_javascript(
    browser: Browser, live_server: LiveServer, bill: Bill
) -> None:
    context = browser.new_context(java_script_enabled=False)
    sam = Staff(context.new_page(), str(live_server))
    sam.log_in_by_password("Billing viewers")

    sam.open(list_of("usagerecord"))
    sam.page.get_by_role("textbox", name="Customer").fill("acme")
    sam.page.get_by_role("button", name="Apply").click()

    expect(sam.page.get_by_role("status")).to_have_text("4 records: $11.60")
    context.close()


def test_no_page_has_a_serious_violation_or_is_too_wide(staff: Staff, bill: Bill) -> None:
    staff.log_in("Billing admins")
    record = UsageRecord.objects.get(pk="cdn:1")
    customer, api_key = Customer.objects.get(), ApiKey.objects.get()
    faults = []

    for path in (
        "/admin/",
        *(list_of(model) for model in ("customer", "bill", "usagerecord", "apikey")),
        *(page_of(row) for row in (customer, bill, record, api_key)),
        page_of(bill, "close"),
        page_of(bill, "verify"),
        page_of(bill, "statement"),
        f"/admin/usage/bill/month/{bill.month:%Y-%m}/",
        *("/admin/usage/bill/to-close/", "/admin/usage/bill/attention/"),
        page_of(record, "void"),
        page_of(api_key, "revoke"),
        page_of(api_key, "owner"),
        page_of(api_key, "traffic"),
        page_of(customer, "history"),
        page_of(api_key, "history"),
        list_of("usagerecord", q="cdn:17"),
        "/admin/usage/apikey/add/",
        "/admin/usage/customer/add/",
    ):
        staff.open(path)
        faults += staff.faults()

    assert faults == []


def test_the_link_to_all_lines_is_not_told_by_its_colour_alone(staff: Staff, bill: Bill) -> None:
    for number in range(LINES_SHOWN):
        report(customer_id=bill.customer_id, service=f"Virtual machine {number}")
    staff.log_in("Billing viewers")

    staff.open(page_of(bill))

    link = staff.page.get_by_role("link", name="show 500 at most")
    expect(link).to_have_css("text-decoration-line", "underline")


def test_no_column_is_off_the_screen(staff: Staff, bill: Bill) -> None:
    staff.log_in("Billing admins")
    Customer.objects.create(id=2, name="A" * 100, reference="R" * 50)
    report(customer_id=2, service="S" * 100)
    report(units=Decimal("123456.789"), price_per_unit=Decimal("0.000087"))
    record = UsageRecord.objects.get(pk="cdn:1")
    cut = []

    for path in (
        "/admin/",
        *(list_of(model) for model in ("customer", "bill", "usagerecord", "apikey")),
        *(page_of(bill), page_of(bill, "statement"), page_of(bill, "close"), page_of(record)),
        *("/admin/usage/bill/to-close/", "/admin/usage/bill/attention/"),
        f"/admin/usage/bill/month/{bill.month:%Y-%m}/",
        page_of(ApiKey.objects.get(), "traffic"),
    ):
        staff.open(path)
        for width in (390, 820, 1024, 1400):
            staff.page.set_viewport_size({"width": width, "height": 768})
            cut += [f"{path}, {width}: {table}" for table in staff.cut_tables()]

    assert cut == []


def test_no_page_that_refuses_has_a_serious_violation_or_is_too_wide(
    staff: Staff, bill: Bill
) -> None:
    close(bill, by="Sam")

    staff.open("/admin/")
    faults = staff.faults()
    staff.log_in("Billing viewers")
    for path, refused in (
        (page_of(bill), False),
        (list_of("bill", q="nobody"), False),
        (list_of("usagerecord", since="soon"), True),
        (page_of(bill, "close"), True),
        ("/admin/usage/bill/999999/change/", True),
    ):
        staff.open(path)
        faults += staff.faults()
        # The browser itself tells the status; the bad date is in the box, to be corrected.
        said = [what for what in staff.complaints if "status of 4" in what or "yyyy-MM-dd" in what]
        assert bool(said) == refused, path
        staff.complaints = [what for what in staff.complaints if what not in said]

    assert faults == []


def test_the_lockout_has_no_serious_violation(staff: Staff) -> None:
    staff.open("/admin/")
    for _ in range(5):
        staff.page.get_by_label("Username").fill("sam")
        staff.page.get_by_label("Password").fill("wrong")
        staff.page.get_by_role("button", name="Log in").click()

    expect(staff.page.get_by_text("wrong passwords locked this user name")).to_be_visible()
    assert staff.faults() == []
    staff.complaints = [what for what in staff.complaints if "status of 429" not in what]
