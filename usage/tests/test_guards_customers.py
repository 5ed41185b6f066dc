"""Customers with bills keep their currency; keys that reported records stay."""

import pytest
from django.db.models.deletion import ProtectedError

from usage.models import ApiKey, Bill, Customer
from usage.tests.factories import CustomerFactory
from usage.tests.guarded import any_connection, on_sqlite, refused, run

pytestmark = pytest.mark.django_db


def test_the_currency_of_a_customer_with_bills_never_changes(opened: Bill) -> None:
    message = "a customer with bills keeps its id and currency"
    refused(run("UPDATE usage_customer SET currency = 'EUR' WHERE id = 123"), message)
    refused(lambda: Customer.objects.update(currency="EUR"), message)
    customer = Customer.objects.get()
    customer.currency = "EUR"
    refused(customer.save, message)
    refused(lambda: Customer.objects.bulk_update([customer], ["currency"]), message)
    refused(run("UPDATE usage_customer SET id = 999 WHERE id = 123"), message)
    # Within one transaction another customer could take the id over.
    refused(run("DELETE FROM usage_customer WHERE id = 123"), message)


@on_sqlite
def test_a_customer_with_bills_is_not_replaced(opened: Bill) -> None:
    sql = "INSERT OR REPLACE INTO usage_customer (id, name, currency) VALUES (123, 'A', 'EUR')"
    with any_connection():
        refused(run(sql), "a customer with bills keeps its id and currency")


@on_sqlite
def test_a_customer_with_bills_is_not_replaced_by_another(opened: Bill) -> None:
    CustomerFactory.create(id=456)
    with any_connection():
        refused(
            run("UPDATE OR REPLACE usage_customer SET id = 123 WHERE id = 456"),
            "a customer with bills keeps its id and currency",
        )


def test_the_name_of_a_customer_with_bills_changes(opened: Bill) -> None:
    Customer.objects.update(name="Alice B.", currency="USD")
    assert Customer.objects.get().name == "Alice B."


def test_the_currency_of_a_customer_without_bills_changes(customer: Customer) -> None:
    Customer.objects.update(currency="EUR")
    assert Customer.objects.get().currency == "EUR"


def test_a_customer_with_bills_is_not_deleted(opened: Bill) -> None:
    with pytest.raises(ProtectedError):
        Customer.objects.get().delete()


def test_a_key_is_not_deleted(api_key: str) -> None:
    with pytest.raises(ProtectedError, match="revoke it"):
        ApiKey.objects.get().delete()
    refused(run("DELETE FROM usage_apikey"), "an API key is never deleted")


@on_sqlite
@pytest.mark.parametrize(
    "sql",
    [
        "INSERT OR REPLACE INTO usage_apikey SELECT * FROM usage_apikey",
        (
            "INSERT OR REPLACE INTO usage_apikey (name, prefix, digest, created_at)"
            " SELECT name, prefix, digest, created_at FROM usage_apikey"
        ),
        "UPDATE OR REPLACE usage_apikey SET digest = (SELECT min(digest) FROM usage_apikey)",
    ],
)
def test_a_key_is_not_replaced(sql: str, api_key: str) -> None:
    ApiKey.objects.issue(name="another")
    with any_connection():
        refused(run(sql), "an API key is never replaced")


def test_a_key_keeps_its_id(api_key: str) -> None:
    refused(run("UPDATE usage_apikey SET id = id + 1"), "an API key keeps its id")


def test_a_key_is_revoked(api_key: str) -> None:
    assert ApiKey.objects.get().revoke()
