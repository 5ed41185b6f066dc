"""Staff add, rename and find customers."""

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from usage.admin import changes
from usage.ledger.close import close
from usage.models import Change, Customer
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.tests.staff import list_of, page_of, queries, report, staff, text_of

pytestmark = pytest.mark.django_db

ADD = "admin:usage_customer_add"


def test_a_customer_is_added(admin_client: Client) -> None:
    admin_client.post(reverse(ADD), {"id": 2**63 - 1, "name": "Zoe", "currency": "KWD"})

    assert Customer.objects.get().currency == "KWD"


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "0"},
        {"id": "-5"},
        {"id": str(2**63)},
        {"id": "12x"},
        {"name": ""},
        {"name": "x" * 201},
        {"currency": "XXL"},
        {"currency": "usd"},
        {"currency": "US"},
    ],
)
def test_a_malformed_customer_is_refused(admin_client: Client, wrong: dict[str, str]) -> None:
    response = admin_client.post(
        reverse(ADD), {"id": "7", "name": "Zoe", "currency": "USD"} | wrong
    )

    assert "errorlist" in text_of(response)
    assert not Customer.objects.exists()


def test_adding_an_id_that_is_taken_changes_nothing(
    admin_client: Client, customer: Customer
) -> None:
    response = admin_client.post(reverse(ADD), {"id": "123", "name": "Mallory", "currency": "EUR"})

    assert "errorlist" in text_of(response)
    assert Customer.objects.get().name == "Alice"


def test_a_customer_is_renamed_and_keeps_the_id(admin_client: Client, customer: Customer) -> None:
    admin_client.post(page_of(customer), {"id": "9", "name": "Alicia", "currency": "USD"})

    assert list(Customer.objects.values_list("id", "name")) == [(123, "Alicia")]


def test_the_currency_changes_before_the_first_bill(
    admin_client: Client, customer: Customer
) -> None:
    sent = {"name": "Alice", "currency": "JPY", "reason": "They moved to Japan."}
    admin_client.post(page_of(customer), sent)

    assert Customer.objects.get().currency == "JPY"
    change = Change.objects.get()
    assert (change.field, change.old, change.new) == ("currency", "USD", "JPY")
    assert (change.actor, change.reason) == ("admin", "They moved to Japan.")


def test_the_currency_changes_only_with_a_reason(admin_client: Client, customer: Customer) -> None:
    response = admin_client.post(page_of(customer), {"name": "Alice", "currency": "JPY"})

    assert "Give the reason for changing the currency." in text_of(response)
    assert Customer.objects.get().currency == "USD"


def test_a_stale_form_saves_only_what_its_user_changed(
    admin_client: Client, customer: Customer
) -> None:
    opened = {
        "initial-name": "Alice",
        "initial-currency": "USD",
        "initial-reference": "",
        "name": "Alice",
        "currency": "USD",
        "reference": "",
    }
    Customer.objects.update(name="Alice Holding")

    admin_client.post(page_of(customer), opened | {"currency": "JPY", "reason": "They moved."})

    customer.refresh_from_db()
    assert (customer.name, customer.currency) == ("Alice Holding", "JPY")
    assert [change.field for change in Change.objects.all()] == ["currency"]


def test_a_stale_form_does_not_overwrite_a_change_of_the_same_field(
    admin_client: Client, customer: Customer
) -> None:
    sent = {"initial-name": "Alice", "name": "Alicia", "currency": "USD"}
    Customer.objects.update(name="Alice Holding")

    page = text_of(admin_client.post(page_of(customer), sent))

    assert "The name was changed to &#x27;Alice Holding&#x27; after this form was opened." in page
    assert Customer.objects.get().name == "Alice Holding"
    assert 'name="initial-name" value="Alice Holding"' in page


@pytest.mark.parametrize("name", ["Müller", "MÜLLER", "Mu\u0308ller"])
def test_a_second_customer_of_the_same_name_is_added_only_knowingly(
    admin_client: Client, name: str
) -> None:
    CustomerFactory.create(id=1, name="Müller")
    sent = {"id": "2", "name": name, "currency": "USD"}

    page = text_of(admin_client.post(reverse(ADD), sent))
    assert "Customer 1 has this name too." in page
    assert not Customer.objects.filter(pk=2).exists()

    admin_client.post(reverse(ADD), sent | {"is_another": "on"})
    assert Customer.objects.filter(pk=2).exists()


def test_a_customer_has_a_reference(admin_client: Client, customer: Customer) -> None:
    sent = {"name": "Alice", "reference": "D-4711", "currency": "USD"}
    admin_client.post(page_of(customer), sent)

    assert Customer.objects.get().reference == "D-4711"
    found = admin_client.get(list_of("customer", q="d-47")).context["cl"].result_list
    assert found == [customer]


def test_a_customers_page_leads_back_to_the_list_with_its_search(
    admin_client: Client, customer: Customer
) -> None:
    page = text_of(admin_client.get(f"{page_of(customer)}?_changelist_filters=q%3DAli"))

    assert 'href="/admin/usage/customer/?q=Ali"' in page


def test_the_history_of_a_customer_outlives_the_account(customer: Customer) -> None:
    client = staff("view_customer", "change_customer")
    client.post(page_of(customer), {"name": "Alicia", "currency": "USD"})
    User.objects.all().delete()

    viewer = staff("view_customer")

    page = text_of(viewer.get(page_of(customer, "history")))
    for said in ("Sam", "changed name", "Alice", "Alicia"):
        assert said in page


def test_the_history_of_a_customer_is_only_to_be_read(
    admin_client: Client, customer: Customer
) -> None:
    assert admin_client.post(page_of(customer, "history")).status_code == 405


def test_a_long_history_of_a_customer_goes_on_on_the_next_page(
    admin_client: Client, customer: Customer
) -> None:
    for number in range(changes.SHOWN + 2):
        sent = {"name": f"Alice {number}", "currency": "USD"}
        admin_client.post(page_of(customer), sent)

    first = admin_client.get(page_of(customer, "history")).context
    rest = admin_client.get(page_of(customer, "history") + first["earlier"]).context

    assert [len(page["changes"]) for page in (first, rest)] == [changes.SHOWN, 2]
    assert rest["earlier"] == ""


def test_who_may_not_see_bills_has_no_links_to_them(customer: Customer) -> None:
    report()
    viewer = staff("view_customer")

    for address in (page_of(customer), list_of("customer")):
        page = text_of(viewer.get(address))
        assert "/admin/usage/bill/" not in page
        assert "Alice" in page


def test_the_currency_stays_once_there_is_a_bill(admin_client: Client, customer: Customer) -> None:
    report()

    assert 'name="currency"' not in text_of(admin_client.get(page_of(customer)))
    stale = admin_client.post(page_of(customer), {"name": "Alicia", "currency": "JPY"})

    assert "The currency cannot change: the customer has a bill." in text_of(stale)
    customer.refresh_from_db()
    assert (customer.name, customer.currency) == ("Alice", "USD")


def test_a_customer_with_a_bill_is_renamed(admin_client: Client, customer: Customer) -> None:
    report()

    for sent in ({"name": "Alicia"}, {"name": "Alina", "currency": "USD"}):
        admin_client.post(page_of(customer), sent)

        assert Customer.objects.get().name == sent["name"]


@pytest.mark.parametrize(
    ("term", "found"),
    [
        ("lic", [123]),
        ("ALICE", [123]),
        ("123", [123, 500]),
        ("9" * 25, []),
        ("nobody", []),
        ("", [123, 500]),
        ("0" * 5000, []),
        ("0" * 20 + "123", []),
        ("\N{SUPERSCRIPT TWO}", []),
    ],
)
def test_customers_are_found_by_name_and_id(
    admin_client: Client, customer: Customer, term: str, found: list[int]
) -> None:
    CustomerFactory.create(id=500, name="Studio 123")

    rows = admin_client.get(list_of("customer", q=term)).context["cl"].result_list

    assert [row.pk for row in rows] == found


@pytest.mark.parametrize("term", ["müller", "MÜLLER", "u\u0308ller"])
def test_a_name_is_found_in_any_case_and_normal_form(admin_client: Client, term: str) -> None:
    for number, name in enumerate(("Müller", "Mu\u0308ller GmbH"), start=1):
        CustomerFactory.create(id=number, name=name)

    for model in ("customer", "bill"):
        if model == "bill":
            for number in (1, 2):
                report(customer_id=number)
        assert len(admin_client.get(list_of(model, q=term)).context["cl"].result_list) == 2


def test_autocomplete_finds_customers_page_by_page_without_counting(
    admin_client: Client, customer: Customer
) -> None:
    CustomerFactory.create_batch(25, name="Alice too")
    address = reverse("admin:autocomplete")
    asked = {"app_label": "usage", "model_name": "bill", "field_name": "customer", "term": "alice"}

    with queries() as statements:
        first = admin_client.get(address, asked).json()
        second = admin_client.get(address, asked | {"page": "2"}).json()

    assert [len(page["results"]) for page in (first, second)] == [20, 6]
    assert first["pagination"]["more"]
    assert not second["pagination"]["more"]
    assert not [sql for sql in statements if "COUNT" in sql]


@pytest.mark.parametrize("page", ["0", "21", "last", "x"])
def test_autocomplete_has_no_deep_pages(
    admin_client: Client, customer: Customer, page: str
) -> None:
    asked = {"app_label": "usage", "model_name": "bill", "field_name": "customer", "page": page}

    response = admin_client.get(reverse("admin:autocomplete"), asked)

    assert response.status_code == (200 if page == "last" else 404)
    if page in {"0", "21"}:
        assert "Pages go from 1 to 20. Narrow your search." in response.content.decode()


def test_the_list_shows_the_current_bill(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    CustomerFactory.create(id=456, name="Bob", currency="JPY")
    database_clock.set("2026-10-20T12:00:00Z")
    report(10)
    database_clock.set("2026-11-20T12:00:00Z")
    report(2)

    rows = admin_client.get(list_of("customer")).context["cl"].result_list

    assert [row.shown_total for row in rows] == ["$5.80", "–"]


def test_a_due_bill_is_due_on_the_customers_page(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-10-20T12:00:00Z")
    report()
    database_clock.set("2026-11-20T12:00:00Z")

    page = text_of(admin_client.get(page_of(customer)))

    assert (page.count(">due to close<"), page.count(">open<")) == (1, 0)


def test_the_page_shows_the_latest_bills(
    admin_client: Client, customer: Customer, database_clock: DatabaseClock
) -> None:
    database_clock.set("2026-10-20T12:00:00Z")
    october = report(10)
    close(october, by="Sam")
    database_clock.set("2026-11-20T12:00:00Z")
    november = report(2)

    page = text_of(admin_client.get(page_of(customer)))

    for shown in (page_of(october), "$29.00", page_of(november), "$5.80"):
        assert shown in page
