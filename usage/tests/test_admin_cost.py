"""No page costs more when there are more records."""

import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal
from importlib import import_module

import pytest
from django.test import Client
from django.utils import timezone

from usage.admin.record_list import LOOKED_THROUGH
from usage.ledger.close import close
from usage.models import ApiKey, Bill, Customer, Traffic, UsageRecord
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.tests.staff import about_records, list_of, page_of, queries, report, staff

pytestmark = pytest.mark.django_db

ROLES: dict[str, list[str]] = import_module("usage.migrations.0003_roles").ROLES
PAGES: dict[str, Callable[[], str]] = {
    "overview": lambda: "/admin/",
    "customers": lambda: list_of("customer"),
    "customer": lambda: page_of(Customer.objects.get()),
    "bills": lambda: list_of("bill"),
    "bills found": lambda: list_of("bill", q="Ali", state="open", customer=123),
    "bill": lambda: page_of(Bill.objects.get()),
    "closing": lambda: page_of(Bill.objects.get(), "close"),
    "statement": lambda: page_of(Bill.objects.get(), "statement"),
    "hand-over": lambda: f"/admin/usage/bill/month/{Bill.objects.get().month:%Y-%m}/",
    "bills by total": lambda: list_of("bill", total_from="1"),
    "customer's history": lambda: page_of(Customer.objects.get(), "history"),
    "key's history": lambda: page_of(ApiKey.objects.get(), "history"),
    "records by amount": lambda: list_of("usagerecord", amount="1", customer=123),
    "records by recording": lambda: list_of("usagerecord", recorded_since="2026-01-01"),
    "records": lambda: list_of("usagerecord"),
    "records of a bill": lambda: list_of("usagerecord", bill=Bill.objects.get().pk),
    "records filtered": lambda: list_of("usagerecord", customer=123, late=1, voids=1),
    "records of a line": lambda: list_of("usagerecord", bill=Bill.objects.get().pk, service="x"),
    "record": lambda: page_of(UsageRecord.objects.get(pk="one")),
    "voiding": lambda: page_of(UsageRecord.objects.get(pk="one"), "void"),
    "keys": lambda: list_of("apikey"),
    "key": lambda: page_of(ApiKey.objects.get()),
    "deleting a customer": lambda: page_of(Customer.objects.get(), "delete"),
}


SECTIONS = (
    *("accrued", "services", "largest", "due", "prices", "late_records", "done"),
    *("troubled_keys", "unused_keys"),
)


@pytest.mark.no_cover  # other tests measure this code
def test_as_many_queries_at_1000_records_as_at_10_and_none_counts_or_skips_records(
    admin_client: Client, customer: Customer
) -> None:
    api_key, _ = ApiKey.objects.issue(name="tests")
    report(request_id="one", reported_by=api_key)
    report(9, reported_by=api_key)
    addresses = {page: address() for page, address in PAGES.items()}

    def asked() -> dict[str, list[str]]:
        statements = {}
        for page, address in addresses.items():
            with queries() as statements[page]:
                admin_client.get(address)
        return statements

    asked()  # content types are looked up once per process
    few = asked()
    report(990, reported_by=api_key)
    many = asked()

    for page, statements in many.items():
        assert len(few[page]) == len(statements) <= 16, page  # one asks for the books' time zone
        for sql in about_records(statements):
            assert "COUNT(" not in sql
            assert "SUM(" not in sql
            assert "LIMIT" in sql or "request_id" in sql.partition("WHERE")[2]
            # The end of what is looked through; the last record of a bill's first ones.
            skipped = re.findall(r"LIMIT [12] OFFSET (\d+)", sql)
            assert len(skipped) == sql.count("OFFSET")
            assert all(int(number) <= LOOKED_THROUGH for number in skipped)


def test_the_first_page_takes_at_most_17_queries_with_something_in_every_section(
    customer: Customer, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-10-20T12:00:00Z")
    report()
    early = report(customer_id=CustomerFactory.create().pk)
    close(early, by="Sam")
    now = database_clock.set("2026-11-20T12:00:00Z")
    report(price_per_unit=Decimal(5), occurred_at=now)
    report(customer_id=early.customer_id, occurred_at=early.period_start)
    ApiKey.objects.issue(name="unused")
    ApiKey.objects.update(created_at=timezone.now() - dt.timedelta(days=100))
    api_key, _ = ApiKey.objects.issue(name="cdn")
    Traffic.objects.create(api_key=api_key, day=timezone.now().date(), refused=1)
    viewer = staff(*ROLES["Billing viewers"])
    viewer.get("/admin/")

    with queries() as statements:
        context = viewer.get("/admin/").context

    for section in SECTIONS:
        assert context[section], section
    asked = [sql for sql in statements if not sql.startswith("SET LOCAL ")]
    assert len(asked) <= 17  # one asks for the time zone of the books, one for past days


@pytest.mark.no_cover
@pytest.mark.parametrize("path", ["/admin/", "bill", "usagerecord"])
def test_a_page_of_much_stays_below_60_kilobytes(
    admin_client: Client, customer: Customer, path: str
) -> None:
    api_key, _ = ApiKey.objects.issue(name="Content delivery")
    for number in range(100):
        service = f"Database Hosting in region {number}"
        bill = report(service=service, request_id=f"{number}" * 20, reported_by=api_key)
    address = {"bill": page_of(bill), "usagerecord": list_of("usagerecord")}.get(path, path)

    assert len(admin_client.get(address).content) < 60_000


@pytest.mark.parametrize("name", ["漢" * 97, '<"&>' * 24])
def test_long_names_make_a_page_no_longer(admin_client: Client, name: str) -> None:
    api_key, _ = ApiKey.objects.issue(name=name)
    for number in range(45):
        customer = CustomerFactory.create(name=f"{name}{number:03}")
        report(customer_id=customer.pk)
        report(
            customer_id=customer.pk,
            service=name,
            request_id=f"{'<&%/' * 31}{number:03}",
            reported_by=api_key,
        )
    for number in range(45):
        bill = report(customer_id=customer.pk, service=f"{name}{number:03}")

    for address in (page_of(bill), *(list_of(m) for m in ("customer", "bill", "usagerecord"))):
        assert len(admin_client.get(address).content) < 60_000, address
    lines = admin_client.get(page_of(bill)).context["lines"]
    assert 5 < len(lines) < 40


def test_the_list_of_bills_reads_all_totals_at_once(
    admin_client: Client, customer: Customer
) -> None:
    report(5)

    with queries() as statements:
        admin_client.get(list_of("bill"))

    assert len([sql for sql in statements if "usage_dailyusage" in sql]) == 1
