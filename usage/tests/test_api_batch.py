"""A batch: one result for each record, and no record stops another."""

from decimal import Decimal
from typing import Any

import pytest

from usage.models import Bill, Customer, UsageRecord
from usage.tests.conftest import Post
from usage.tests.factories import CustomerFactory, usage_body

pytestmark = pytest.mark.django_db


def statuses(response: Any) -> list[int]:
    assert response.status_code == 207
    return [result["status"] for result in response.json()["results"]]


def test_results_stand_in_the_order_sent(customer: Customer, post: Post) -> None:
    bodies = [usage_body(request_id=f"id:{n}") for n in (3, 1, 2)]

    results = post(bodies).json()["results"]

    assert [result["request_id"] for result in results] == ["id:3", "id:1", "id:2"]
    assert [result["record"]["request_id"] for result in results] == ["id:3", "id:1", "id:2"]


def test_a_batch_says_of_each_record_what_a_single_one_would_be_told(
    customer: Customer, post: Post
) -> None:
    stored = usage_body()
    first = post(stored).json()
    batch = [
        usage_body(),
        stored,
        {**stored, "units_consumed": 59},
        usage_body(customer_id=999),
        usage_body(units_consumed=0),
        usage_body(occurred_at="1999-01-01T00:00:00Z"),
        "nonsense",
    ]

    response = post(batch)

    assert statuses(response) == [201, 200, 409, 404, 400, 400, 400]
    answer = response.json()
    assert answer["summary"] == {"created": 1, "replayed": 1, "rejected": 5}
    assert answer["results"][1]["record"] == first
    assert [result["error"]["code"] for result in answer["results"][2:]] == [
        "request_id_conflict",
        "unknown_customer",
        "validation_error",
        "validation_error",
        "validation_error",
    ]
    assert UsageRecord.objects.count() == 2


def test_the_same_id_twice_is_a_replay_or_a_conflict_of_the_first(
    customer: Customer, post: Post
) -> None:
    body = usage_body()

    response = post([body, body, {**body, "service": "Other"}])

    assert statuses(response) == [201, 200, 409]
    assert Bill.objects.get().total == Decimal("2.90")


def test_an_id_whose_first_record_is_refused_is_free_for_the_second(
    customer: Customer, post: Post
) -> None:
    body = usage_body()

    response = post([{**body, "customer_id": 999}, {**body, "units_consumed": -1}, body, body])

    assert statuses(response) == [404, 400, 201, 200]


def test_a_refused_result_names_the_id_it_was_sent_with_if_that_can_be_shown(
    customer: Customer, post: Post
) -> None:
    ids = ["mine", "my own", 17, None, "x" * 129, "\ud800", "a\nb", "a\u202eb"]
    batch = [*[{"requestId": request_id} for request_id in ids], {}, 5]

    results = post(batch).json()["results"]

    assert [result["request_id"] for result in results] == ["mine", "my own", *[None] * 8]


def test_refused_records_open_no_bill(customer: Customer, post: Post) -> None:
    other = CustomerFactory.create()
    taken = usage_body()
    post(taken)

    response = post([{**taken, "customer_id": other.pk}, usage_body(customer_id=999)])

    assert statuses(response) == [409, 404]
    assert not Bill.objects.filter(customer=other).exists()


def test_a_thousand_records_of_many_customers_add_up(post: Post) -> None:
    customers = CustomerFactory.create_batch(10)
    bodies = [
        usage_body(customer_id=customers[n % 10].pk, units_consumed=n + 1) for n in range(1000)
    ]

    assert set(statuses(post(bodies))) == {201}
    assert set(statuses(post(list(reversed(bodies))))) == {200}
    assert sum(bill.total for bill in Bill.objects.all()) == Decimal(500_500) * Decimal("0.05")
