"""The happy path, from the wire to the bill."""

from decimal import Decimal

import pytest
from pytest_django.fixtures import Settings

from usage.ledger.close import close
from usage.models import Bill, Customer, DailyUsage, UsageRecord
from usage.tests.conftest import DatabaseClock, Post
from usage.tests.factories import CustomerFactory, usage_body

pytestmark = pytest.mark.django_db


def test_a_record_goes_on_the_customers_current_bill(customer: Customer, post: Post) -> None:
    response = post(usage_body(request_id="first"))

    assert response.status_code == 201
    assert response.json()["amount"] == "2.9"
    bill = Bill.objects.get(customer=customer)
    assert bill.total == Decimal("2.90")
    assert response.json()["bill"] == {"id": bill.pk, "month": f"{bill.month:%Y-%m}"}


def test_a_replay_is_answered_byte_for_byte_and_stored_once(customer: Customer, post: Post) -> None:
    body = usage_body()

    first, second = post(body), post(body)

    assert second.status_code == 200
    assert second["Idempotent-Replayed"] == "true"
    assert second.content == first.content
    assert UsageRecord.objects.count() == 1


def test_an_id_with_other_content_is_a_conflict_and_changes_nothing(
    customer: Customer, post: Post
) -> None:
    post(usage_body(request_id="taken"))

    response = post(usage_body(request_id="taken", units_consumed=59))

    assert response.status_code == 409
    assert response.json()["conflicting_fields"] == ["units_consumed"]
    assert Bill.objects.get().total == Decimal("2.90")


def test_records_of_one_day_service_and_price_add_up_in_one_row(
    customer: Customer, post: Post
) -> None:
    post(usage_body(units_consumed=58))
    post(usage_body(units_consumed="0.5"))

    row = DailyUsage.objects.get()
    assert (row.units, row.records) == (Decimal("58.5"), 2)


def test_case_matters_in_a_service_and_in_an_id(customer: Customer, post: Post) -> None:
    post(usage_body(request_id="cdn:A", service="CDN Storage"))

    other_service = post(usage_body(request_id="cdn:A", service="cdn storage"))
    other_id = post(usage_body(request_id="cdn:a", service="CDN Storage"))

    assert other_service.json()["conflicting_fields"] == ["service"]
    assert other_id.status_code == 201
    assert UsageRecord.objects.count() == 2


def test_a_committed_transaction_leaves_what_it_answered(
    guards_lifted_for_teardown: None, customer: Customer, post: Post
) -> None:
    response = post(usage_body())

    assert UsageRecord.objects.get().pk == response.json()["request_id"]


def test_a_service_is_trimmed_and_composed(customer: Customer, post: Post) -> None:
    first = post(usage_body(request_id="spelled", service=" Cafe\u0301 "))
    again = post(usage_body(request_id="spelled", service="Caf\u00e9"))

    assert first.json()["service"] == "Caf\u00e9"
    assert again.content == first.content


def test_the_longest_id_and_service_are_recorded(customer: Customer, post: Post) -> None:
    longest = usage_body(request_id="x" * 128, service="漢" * 100)

    assert post(longest).status_code == 201


def test_the_largest_customer_id_has_a_bill_like_any_other(post: Post) -> None:
    largest = CustomerFactory.create(id=2**63 - 1)

    assert post(usage_body(customer_id=largest.pk)).status_code == 201


def test_a_bill_is_in_the_currency_that_its_customer_had_when_it_was_opened(post: Post) -> None:
    dinar = CustomerFactory.create(currency="KWD")

    post(usage_body(customer_id=dinar.pk))

    assert Bill.objects.get().currency == "KWD"
    assert Bill.objects.get().total == Decimal("2.900")


def test_a_month_closed_early_is_known_however_long_the_grace(
    customer: Customer, post: Post, database_clock: DatabaseClock, settings: Settings
) -> None:
    settings.BILLING_GRACE_DAYS = 200
    closed_at = database_clock.set("2026-01-20T12:00:00Z")
    post(usage_body(occurred_at="2026-01-10T00:00:00Z"))
    close(Bill.objects.get(), by="Sam")
    database_clock.set("2026-08-01T12:00:00Z")

    assert post(usage_body(occurred_at="2026-01-25T00:00:00Z")).status_code == 201
    assert Bill.objects.open().get().period_start == closed_at
