"""What staff see of bills."""

from decimal import Decimal

import pytest
from django.test import Client
from django.urls import reverse

from usage.admin import bill_list
from usage.ledger.close import close
from usage.ledger.void import void
from usage.models import Bill, Customer
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.tests.staff import list_of, messages_of, page_of, report, text_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def now(database_clock: DatabaseClock) -> None:
    database_clock.set("2026-11-23T12:00:00Z")


def cells(response: object, column: str) -> list[str]:
    """Return the texts of one column of a list."""
    changelist = response.context["cl"]  # type: ignore[attr-defined]  # the test client's
    return [str(row.cells[column]) for row in changelist.result_list]


def test_the_list_shows_customer_month_state_and_total(
    admin_client: Client, customer: Customer
) -> None:
    report(units=Decimal(58), price_per_unit=Decimal("0.05"))

    page = text_of(admin_client.get(list_of("bill")))

    for shown in ("Alice</bdi> (123)", "2026-11", ">open<", "$2.90"):
        assert shown in page


def test_the_page_shows_lines_that_add_up_to_the_total(
    admin_client: Client, customer: Customer
) -> None:
    report(service="Storage", units=Decimal(1), price_per_unit=Decimal("0.005"))
    bill = report(service="Compute", units=Decimal(1), price_per_unit=Decimal("0.005"))

    response = admin_client.get(page_of(bill))

    assert [line["amount"] for line in response.context["lines"]] == ["$0.01", "$0.01"]
    assert list(response.context["sums"].values()) == ["$0.01", "$0.01", "$0.02"]
    assert "$0.005" in text_of(response)


def test_rounding_down_is_shown_as_negative(admin_client: Client, customer: Customer) -> None:
    bill = report(units=Decimal(1), price_per_unit=Decimal("1.004"))

    sums = admin_client.get(page_of(bill)).context["sums"]

    assert sums == {"exact": "$1.004", "rounding": "−$0.004", "total": "$1.00"}


@pytest.mark.parametrize(
    ("currency", "total"), [("JPY", "¥1"), ("USD", "$1.00"), ("KWD", "KWD\N{NO-BREAK SPACE}0.999")]
)
def test_amounts_have_the_currency_and_its_digits(
    admin_client: Client, currency: str, total: str
) -> None:
    customer = CustomerFactory.create(currency=currency)
    price = Decimal("0.999")
    bill = report(customer_id=customer.pk, units=Decimal(1), price_per_unit=price)

    assert total in text_of(admin_client.get(page_of(bill)))
    assert total in text_of(admin_client.get(list_of("bill")))


def test_the_largest_amounts_are_shown_digit_for_digit(
    admin_client: Client, customer: Customer
) -> None:
    bill = report(units=Decimal("999999.999999"), price_per_unit=Decimal("999999.999999999999"))

    assert "$999,999,999,998.999999000000000001" in text_of(admin_client.get(page_of(bill)))


def test_the_page_shows_the_latest_ten_records_and_links_to_all(
    admin_client: Client, customer: Customer
) -> None:
    bill = report(12)

    response = admin_client.get(page_of(bill))

    assert len(response.context["latest"]) == 10
    assert list_of("usagerecord", bill=bill.pk) in text_of(response)


def test_a_closed_bill_shows_the_total_that_was_fixed(
    admin_client: Client, customer: Customer
) -> None:
    bill = report()
    close(bill, by="Sam")

    assert "$2.90" in text_of(admin_client.get(page_of(bill)))
    assert "Close this bill" not in text_of(admin_client.get(page_of(bill)))
    assert "closed" in cells(admin_client.get(list_of("bill")), "state")[0]
    assert cells(admin_client.get(list_of("bill")), "total") == ["$2.90"]


def test_late_usage_and_voids_are_marked(
    admin_client: Client, customer: Customer, admin_user: object
) -> None:
    bill = report()
    close(bill, by="Sam")
    late = report(occurred_at=bill.period_start)
    record = late.records.get()
    void(record, reason="Counted twice.", by=admin_user)

    page = text_of(admin_client.get(page_of(late)))

    assert page.count(">late</span>") == 2
    assert page.count(">voided</span>") == 1
    assert page.count(">void</span>") == 1


def test_a_bill_is_due_to_close_when_its_grace_is_over(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    bill = report()
    database_clock.set("2026-12-04T00:00:00.001Z")

    assert "due to close" in cells(admin_client.get(list_of("bill")), "state")[0]
    assert ">due to close<" in text_of(admin_client.get(page_of(bill)))
    assert len(cells(admin_client.get(list_of("bill", state="due")), "state")) == 1


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"state": "open"}, ["Bob"]),
        ({"state": "closed"}, ["Alice"]),
        ({"state": "due"}, []),
        ({"month": "2026-11"}, ["Alice", "Bob"]),
        ({"month": "2026-10"}, []),
        ({"customer": "456"}, ["Bob"]),
        ({"q": "ali"}, ["Alice"]),
        ({"q": "456"}, ["Bob"]),
        ({"q": "nobody"}, []),
        ({"q": " "}, ["Alice", "Bob"]),
        ({"customer": "456", "state": "closed"}, []),
    ],
)
def test_filters_and_search(
    admin_client: Client, customer: Customer, query: dict[str, str], found: list[str]
) -> None:
    CustomerFactory.create(id=456, name="Bob")
    close(report(), by="Sam")
    report(customer_id=456)

    bills = admin_client.get(list_of("bill", **query)).context["cl"].result_list

    assert [bill.customer.name for bill in bills] == found


@pytest.mark.parametrize(
    "query",
    [
        {"state": "frozen"},
        {"month": "2026-13"},
        {"month": "November"},
        {"customer": "Mallory"},
        {"customer": "9" * 30},
        {"customer": "0"},
        {"p": "2"},
    ],
)
def test_a_malformed_filter_shows_no_bill_and_says_why(
    admin_client: Client, customer: Customer, query: dict[str, str]
) -> None:
    report()

    response = admin_client.get(list_of("bill", **query))

    assert (response.status_code, response.context["cl"].result_list) == (400, [])
    assert len(messages_of(response)) == 1
    assert "Nothing found." not in response.content.decode()


def test_a_bill_is_found_by_its_number(admin_client: Client, customer: Customer) -> None:
    CustomerFactory.create(id=456, name="Bob")
    report(customer_id=456)
    bill = report()

    response = admin_client.get(list_of("bill", q=bill.pk))

    assert list(response.context["cl"].result_list) == [bill]
    assert f'">{bill.pk}</a>' in text_of(response)
    assert "the number of a bill" in text_of(response)


def test_an_empty_list_says_so(admin_client: Client) -> None:
    assert "Nothing found." in text_of(admin_client.get(list_of("bill")))


def test_a_bill_that_is_not_there_is_not_found(admin_client: Client, customer: Customer) -> None:
    bill = report()
    missing = page_of(bill).replace(str(bill.pk), "999999")

    assert admin_client.get(missing).status_code == 404


def test_bills_are_found_by_their_totals_open_ones_too(
    admin_client: Client, customer: Customer
) -> None:
    for number, units in ((1, 100), (2, 1000), (3, 10_000)):
        CustomerFactory.create(id=number)
        report(customer_id=number, units=Decimal(units), price_per_unit=Decimal("0.01"))
    closed = Bill.objects.get(customer=2)
    close(closed, by="Sam")

    def found(**query: str) -> list[int]:
        bills = admin_client.get(list_of("bill", **query)).context["cl"].result_list
        return [bill.customer_id for bill in bills]

    assert found(total_from="10") == [2, 3]
    assert found(total_from="10.000001") == [3]
    assert found(total_until="10") == [1, 2]
    assert found(total_from="10", total_until="10.00") == [2]
    assert found(total_from="10", state="open") == [3]
    # No database compares these with its column.
    assert found(total_from="1e24") == found(total_until="-1e24") == []
    assert found(total_from="-1e24", total_until="1e24") == [1, 2, 3]


def test_a_filter_by_total_looks_through_a_bounded_number_of_bills(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bill_list, "LOOKED_THROUGH", 2)
    for customer in CustomerFactory.create_batch(5):
        report(customer_id=customer.pk)

    response = admin_client.get(list_of("bill", total_from="100"))

    assert "Looked through 2 bills" in text_of(response)
    assert "Nothing found so far." in text_of(response)
    assert response.context["summary"] == "0 bills among the first 2 looked through."


def test_bills_found_are_counted_and_added_up_by_currency(
    admin_client: Client, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    CustomerFactory.create(id=456, name="Anna", currency="JPY")
    close(report(), by="Sam")
    report(customer_id=456)

    def summary(**query: str) -> str:
        return str(admin_client.get(list_of("bill", **query)).context["summary"])

    assert summary() == ""
    assert summary(q="a") == "2 bills: ¥3, $2.90"
    assert summary(state="closed") == "1 bill: $2.90"
    monkeypatch.setattr(bill_list, "COUNTED", 1)
    assert summary(q="a") == "More than 1 bills."


def test_a_search_and_its_export_are_not_cut(admin_client: Client) -> None:
    Customer.objects.bulk_create(Customer(id=n, name=f"Acme {n}") for n in range(1, 1502))
    for number in (1, 1501):
        report(customer_id=number)

    export = admin_client.get(reverse("admin:usage_bill_export", query={"q": "Acme"}))

    assert len(b"".join(export.streaming_content).splitlines()) == 3  # type: ignore[attr-defined]


def test_the_filters_of_a_list_are_kept_on_the_way_to_a_bill_and_back(
    admin_client: Client, customer: Customer
) -> None:
    bill = report()
    kept = "?_changelist_filters=state%3Dopen"

    assert f'href="{page_of(bill)}{kept}"' in text_of(
        admin_client.get(list_of("bill", state="open"))
    )
    page = text_of(admin_client.get(page_of(bill) + kept))
    assert 'href="/admin/usage/bill/?state=open"' in page
    assert f'href="{page_of(bill, "close")}{kept}"' in page
    verified = admin_client.post(page_of(bill, "verify") + kept)
    assert verified["Location"] == page_of(bill) + kept


def test_a_page_of_a_bill_is_called_after_its_customer(
    admin_client: Client, customer: Customer
) -> None:
    bill = report()

    for address in (page_of(bill), page_of(bill, "close"), page_of(bill, "statement")):
        title = text_of(admin_client.get(address)).partition("<title>")[2].partition("</title>")[0]
        assert f"Bill {bill.pk} of Alice, {bill.month:%B %Y} | Usage billing" in title
