"""Exports say what the pages say, run no formula, and hold few rows in memory at a time."""

import csv
import re
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings as settings_of_project
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from hypothesis import given, settings
from hypothesis import strategies as st

from usage.admin import exports, record_list
from usage.admin.formats import money
from usage.database.deadline import DatabaseUnavailable
from usage.ledger.close import close
from usage.ledger.void import void
from usage.models import ApiKey, Bill, Customer, UsageRecord
from usage.tests.factories import CustomerFactory
from usage.tests.staff import list_of, page_of, queries, report, staff, text_of

pytestmark = pytest.mark.django_db

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\N{FULLWIDTH EQUALS SIGN}1+1",
    "'=1+1",
    "'",
    "''quoted",
    "x;=1+1;y",
    "x;'y",
    "plain",
    'a,"b"',
]


def rows_at(client: Client, address: str) -> list[dict[str, str]]:
    """Read an export as a CSV library does."""
    response = client.get(address)
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    body = b"".join(response.streaming_content).decode()  # type: ignore[attr-defined]  # it streams
    return list(csv.DictReader(body.splitlines()))


def unguarded(cell: str) -> str:
    """Take the guards off a text cell, as the documentation says."""
    return re.sub(r"(\A|[;\t\r\n])'", r"\1", cell)


def records_at(client: Client, **query: Any) -> list[dict[str, str]]:
    return rows_at(client, reverse("admin:usage_usagerecord_export", query=query))


@pytest.fixture
def bill(customer: Customer) -> Bill:
    report(service="Compute", units=Decimal("0.5"), price_per_unit=Decimal("0.03"))
    report(3, service="Storage", units=Decimal(1), price_per_unit=Decimal("0.335"))
    bill = report(request_id="wrong", units=Decimal("1234567.5"))
    void(UsageRecord.objects.get(pk="wrong"), reason="-1 of them", by="Sam")
    return bill


def test_a_file_says_how_long_it_is(admin_client: Client, bill: Bill) -> None:
    response = admin_client.get(reverse("admin:usage_bill_export"))

    body = b"".join(response.streaming_content)  # type: ignore[attr-defined]  # it streams
    assert int(response["Content-Length"]) == len(body) > 0


def test_a_database_that_ends_before_the_last_row_sends_no_file(
    admin_client: Client, bill: Bill, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_row(record: UsageRecord) -> Any:
        raise DatabaseUnavailable("Given up.")

    monkeypatch.setattr(exports, "record_row", record_row)

    response = admin_client.get(reverse("admin:usage_usagerecord_export"))

    assert response.status_code == 503
    assert "Content-Disposition" not in response
    assert "The database does not answer" in response.content.decode()


def test_the_lines_add_up_to_the_total(admin_client: Client, bill: Bill) -> None:
    rows = rows_at(admin_client, reverse("admin:usage_bill_lines", args=[bill.pk]))

    assert sum(Decimal(row["amount"]) for row in rows) == bill.total
    assert [row["service"] for row in rows] == ["Compute", "Database Hosting", "Storage"]


def test_the_records_add_up_to_the_exact_amount(admin_client: Client, bill: Bill) -> None:
    rows = records_at(admin_client, bill=bill.pk)

    exact = sum(line.exact_amount for line in bill.lines())
    assert sum(Decimal(row["amount"]) for row in rows) == exact
    assert len(rows) == 6


def test_a_record_is_exported_digit_for_digit(admin_client: Client, customer: Customer) -> None:
    api_key, _ = ApiKey.objects.issue(name="CDN")
    report(
        request_id="fact",
        units=Decimal("999999.999999"),
        price_per_unit=Decimal("0.000000000001"),
        reported_by=api_key,
    )

    (row,) = records_at(admin_client)

    assert row["units"] == "999999.999999"
    assert row["price_per_unit"] == "0.000000000001"
    assert row["amount"] == "0.000000999999999999"
    assert row["reported_by"] == "CDN"
    assert tuple(row) == exports.RECORD_COLUMNS


@pytest.mark.no_cover
@pytest.mark.parametrize("name", FORMULAS)
def test_no_cell_runs_as_a_formula_and_each_can_be_restored(
    admin_client: Client, name: str
) -> None:
    customer = CustomerFactory.create(name=name)
    report(customer_id=customer.pk, service=name)
    void(UsageRecord.objects.get(), reason=name, by=name)

    rows = records_at(admin_client)
    (bill,) = rows_at(admin_client, reverse("admin:usage_bill_export"))

    cells = [row["service"] for row in rows] + [bill["customer"]]
    cells += [
        row[column] for row in rows for column in ("voided_by", "void_reason") if row["voids"]
    ]
    assert {unguarded(cell) for cell in cells} == {name}
    assert not any(cell.startswith(tuple("=+-@\N{FULLWIDTH EQUALS SIGN}")) for cell in cells)


@pytest.mark.parametrize("start", "=+-@")
def test_no_request_id_and_no_name_of_a_key_runs_as_a_formula(
    start: str, admin_client: Client, customer: Customer
) -> None:
    api_key, _ = ApiKey.objects.issue(name=f"{start}1+1")
    report(request_id=f"{start}1", reported_by=api_key)
    void(UsageRecord.objects.get(), reason="sent twice", by="carol")

    rows = {row["voids"]: row for row in records_at(admin_client)}

    assert rows[""]["request_id"] == f"'{start}1"
    assert rows[""]["reported_by"] == f"'{start}1+1"
    assert set(rows) == {"", f"'{start}1"}


@given(st.text("=+-@'\t\r\n;,\"\N{FULLWIDTH EQUALS SIGN}a "))
def test_no_text_starts_a_formula_however_cells_are_separated(text: str) -> None:
    cell = exports.text(text)

    assert unguarded(cell) == text
    for part in re.split(r"[;\t\r\n]", cell):
        assert not part.startswith(tuple("=+-@\N{FULLWIDTH EQUALS SIGN}"))


def test_the_documentation_takes_the_guards_off_as_these_tests_do() -> None:
    documented = (settings_of_project.BASE_DIR / "docs" / "staff.md").read_text()

    assert r"""re.sub(r"(\A|[;\t\r\n])'", r"\1", cell)""" in documented


def test_the_export_of_a_list_has_its_filters_and_every_page(
    admin_client: Client, bill: Bill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_ROWS_AT_ONCE", 2)

    assert len(records_at(admin_client)) == 6
    assert len(records_at(admin_client, service="Storage")) == 3
    assert [row["request_id"] for row in records_at(admin_client, voids=1)] == ["void wrong"]
    assert len(records_at(admin_client, q="wrong")) == 2


def test_an_export_goes_on_after_what_it_looked_through(
    admin_client: Client, bill: Bill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_list, "LOOKED_THROUGH", 2)

    assert len(records_at(admin_client, bill=bill.pk, service="Storage")) == 3


def test_a_page_of_a_list_exports_the_list_from_its_beginning(
    admin_client: Client, bill: Bill
) -> None:
    page = text_of(admin_client.get(list_of("usagerecord", bill=bill.pk, q="wrong")))

    assert f"export.csv?bill={bill.pk}&amp;q=wrong" in page


def test_the_bill_leads_to_its_exports(admin_client: Client, bill: Bill) -> None:
    page = text_of(admin_client.get(page_of(bill)))

    assert reverse("admin:usage_bill_lines", args=[bill.pk]) in page
    assert reverse("admin:usage_usagerecord_export", query={"bill": bill.pk}) in page


def test_bills_are_exported_with_their_totals(admin_client: Client, bill: Bill) -> None:
    close(bill, by="Sam")
    report()

    rows = rows_at(admin_client, reverse("admin:usage_bill_export"))

    assert [(row["state"], row["total"]) for row in rows] == [("open", "2.90"), ("closed", "1.03")]


def test_an_export_reads_a_bounded_number_of_rows_at_a_time(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_ROWS_AT_ONCE", 5)
    report(20)

    with queries() as statements:
        assert len(records_at(admin_client)) == 20

    pages = [sql for sql in statements if "LIMIT 6" in sql]
    assert len(pages) == 4
    assert not [sql for sql in statements if "COUNT(" in sql or "OFFSET" in sql]


def test_malformed_filters_have_no_export(admin_client: Client) -> None:
    address = reverse("admin:usage_usagerecord_export", query={"bill": "x"})

    assert admin_client.get(address).status_code == 404


def test_an_export_requires_the_permission_to_see(bill: Bill) -> None:
    nobody = staff()

    for address in (
        reverse("admin:usage_usagerecord_export"),
        reverse("admin:usage_bill_export"),
        reverse("admin:usage_bill_lines", args=[bill.pk]),
    ):
        assert nobody.get(address).status_code == 403


def amount_of(said: str) -> Decimal:
    """Return the number in an amount of money as a page says it."""
    return Decimal("".join(c for c in said.replace("−", "-") if c in "-.0123456789"))


@pytest.mark.no_cover  # other tests measure this code
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Compute", "Storage"]),
            st.decimals("0.000001", "999999.999999", places=6),
            st.decimals("0", "9.999999999999", places=12),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["JPY", "USD", "KWD"]),
)
@settings(max_examples=15, deadline=None)
def test_whatever_was_used_lines_records_page_and_frozen_total_agree(
    usage: list[tuple[str, Decimal, Decimal, bool]], currency: str
) -> None:
    customer = CustomerFactory.create(currency=currency)
    for number, (service, units, price, is_voided) in enumerate(usage):
        bill = report(
            request_id=(request_id := f"{customer.pk}:{number}"),
            customer_id=customer.pk,
            service=service,
            units=units,
            price_per_unit=price,
        )
        if is_voided:
            void(UsageRecord.objects.get(pk=request_id), reason="A test.", by="Sam")
    client = Client()
    client.force_login(User.objects.create_superuser(f"admin of {customer.pk}"))

    page = client.get(page_of(bill)).context
    lines = rows_at(client, reverse("admin:usage_bill_lines", args=[bill.pk]))
    records = records_at(client, bill=bill.pk)
    close(bill, by="Sam")

    assert sum(Decimal(line["amount"]) for line in lines) == bill.total
    assert sum(amount_of(line["amount"]) for line in page["lines"]) == bill.total
    assert amount_of(page["sums"]["total"]) == bill.total == bill.closed_total
    assert page["sums"]["total"] == money(bill.total, currency)
    exact = sum(Decimal(record["amount"]) for record in records)
    assert exact == sum(Decimal(line["exact_amount"]) for line in lines)
    assert {record["currency"] for record in records} == {currency}


def test_a_closed_bill_is_exported_with_the_name_it_was_closed_under(
    admin_client: Client, customer: Customer
) -> None:
    Customer.objects.update(reference="D-4711")
    close(report(), by="Sam")
    Customer.objects.update(name="Renamed", reference="D-0")

    (row,) = rows_at(admin_client, reverse("admin:usage_bill_export"))
    assert (row["customer"], row["reference"]) == ("Alice", "D-4711")
