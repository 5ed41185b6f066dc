"""Nothing in the admin changes a record or a closed bill, or deletes what usage refers to."""

from collections.abc import Callable
from typing import Any

import pytest
from django.apps import apps
from django.test import Client
from django.urls import reverse

from usage.ledger.close import close
from usage.models import ApiKey, Bill, Customer, DailyUsage, UsageRecord
from usage.tests.staff import list_of, page_of, report, staff

pytestmark = pytest.mark.django_db

MODELS = (Customer, Bill, UsageRecord, DailyUsage, ApiKey)


def contents() -> list[Any]:
    """Return every row there is."""
    return [list(model._default_manager.order_by("pk").values()) for model in MODELS]


@pytest.fixture
def rows(customer: Customer) -> list[Any]:
    api_key, _ = ApiKey.objects.issue(name="tests")
    bill = report(2, reported_by=api_key)
    close(bill, by="Sam")
    record = UsageRecord.objects.first()
    return [bill, record, api_key, customer]


POST = {"name": "Mallory", "units": "1", "closed_at": "", "post": "yes", "service": "x"}
Request = Callable[[Client, Any], Any]
REFUSED: dict[str, tuple[Request, list[int]]] = {
    "change a record": (lambda client, rows: client.post(page_of(rows[1]), POST), [403, 405]),
    "change a closed bill": (lambda client, rows: client.post(page_of(rows[0]), POST), [403, 405]),
    "rename a key": (lambda client, rows: client.post(page_of(rows[2]), POST), [403, 405]),
    "put": (lambda client, rows: client.put(page_of(rows[0])), [403, 405]),
    "put an action": (lambda client, rows: client.put(page_of(rows[0], "close")), [405]),
    "delete a record": (
        lambda client, rows: client.post(page_of(rows[1], "delete"), POST),
        [403],
    ),
    "delete a bill": (lambda client, rows: client.post(page_of(rows[0], "delete"), POST), [403]),
    "delete a key": (lambda client, rows: client.post(page_of(rows[2], "delete"), POST), [403]),
    "delete a customer": (
        lambda client, rows: client.post(page_of(rows[3], "delete"), POST),
        [403],
    ),
    "look at a customer's deletion": (
        lambda client, rows: client.get(page_of(rows[3], "delete")),
        [403],
    ),
    "add a record": (
        lambda client, rows: client.post(reverse("admin:usage_usagerecord_add"), POST),
        [403],
    ),
    "add a bill": (lambda client, rows: client.post(reverse("admin:usage_bill_add"), POST), [403]),
}


@pytest.mark.parametrize("attempt", REFUSED)
def test_refused_and_nothing_changed(admin_client: Client, rows: list[Any], attempt: str) -> None:
    before = contents()
    request, statuses = REFUSED[attempt]

    response = request(admin_client, rows)

    assert response.status_code in statuses
    assert contents() == before


@pytest.mark.parametrize("model", ["bill", "usagerecord", "apikey", "customer"])
def test_a_list_knows_no_action_that_deletes(
    admin_client: Client, rows: list[Any], model: str
) -> None:
    before = contents()
    ids = list(apps.get_model("usage", model)._default_manager.values_list("pk", flat=True))

    admin_client.post(
        list_of(model), {"action": "delete_selected", "_selected_action": ids, "post": "yes"}
    )

    assert contents() == before


def test_daily_usage_is_not_in_the_admin(admin_client: Client) -> None:
    assert admin_client.get("/admin/usage/dailyusage/").status_code == 404


@pytest.mark.parametrize(
    "query",
    [{"service__contains": "x"}, {"units__gt": "5"}, {"customer__name": "x"}, {"bill__month": "x"}],
)
def test_a_list_takes_no_filter_that_would_read_every_record(
    admin_client: Client, query: dict[str, str]
) -> None:
    assert admin_client.get(list_of("usagerecord", **query)).status_code == 400


def test_a_staff_user_without_permission_sees_nothing(rows: list[Any]) -> None:
    nobody = staff()

    for row in rows:
        assert nobody.get(page_of(row)).status_code == 403
        assert nobody.get(list_of(row._meta.model_name)).status_code == 403
