"""Each role may do what it is for, and nothing more."""

from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from usage.models import AcceptedDuplicates, ApiKey, Bill, Customer, Hold, UsageRecord
from usage.tests.staff import list_of, logged_in, page_of, report

# Other tests measure this code.
pytestmark = [pytest.mark.django_db, pytest.mark.once, pytest.mark.no_cover]

ROLES = ["Billing viewers", "Billing staff", "Billing admins"]
STAFF_AND_ADMINS = ROLES[1:]


@pytest.fixture(params=ROLES)
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def member(role: str) -> Client:
    user = User.objects.create_user("Sam", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    return logged_in(user)


@pytest.fixture
def rows(customer: Customer) -> list[Any]:
    api_key, _ = ApiKey.objects.issue(name="CDN")
    bill = report(reported_by=api_key)
    return [customer, bill, UsageRecord.objects.get(), api_key]


def test_every_role_sees_everything(member: Client, rows: list[Any]) -> None:
    customer, bill, _, api_key = rows
    for row in rows:
        assert member.get(page_of(row)).status_code == 200
        assert member.get(list_of(row._meta.model_name)).status_code == 200
    for address in (
        page_of(bill, "statement"),
        page_of(customer, "history"),
        page_of(api_key, "history"),
    ):
        assert member.get(address).status_code == 200


def test_staff_and_admins_close_bills(member: Client, role: str, rows: list[Any]) -> None:
    response = member.post(page_of(rows[1], "close"), {"expected_total": "2.9"})

    assert response.status_code == (302 if role in STAFF_AND_ADMINS else 403)
    assert Bill.objects.get().is_closed == (role in STAFF_AND_ADMINS)


def test_staff_and_admins_void_records(member: Client, role: str, rows: list[Any]) -> None:
    response = member.post(page_of(rows[2], "void"), {"reason": "Counted twice."})

    assert response.status_code == (302 if role in STAFF_AND_ADMINS else 403)
    assert UsageRecord.objects.count() == (2 if role in STAFF_AND_ADMINS else 1)


def test_staff_and_admins_hold_and_release_bills(
    member: Client, role: str, rows: list[Any]
) -> None:
    bill = rows[1]
    member.post(page_of(bill, "hold"), {"reason": "Disputed."})
    assert Hold.objects.exists() == (role in STAFF_AND_ADMINS)

    Hold.objects.get_or_create(bill=bill, defaults={"reason": "x", "by": "x", "at": timezone.now()})
    member.post(page_of(bill, "release"))
    assert Hold.objects.exists() == (role not in STAFF_AND_ADMINS)


def test_staff_and_admins_close_bills_together(member: Client, role: str, rows: list[Any]) -> None:
    form = {"bill": [f"{rows[1].pk}:2.9:"], "confirmed": "1"}

    response = member.post("/admin/usage/bill/to-close/", form)

    assert response.status_code == (302 if role in STAFF_AND_ADMINS else 403)
    assert Bill.objects.get().is_closed == (role in STAFF_AND_ADMINS)


def test_staff_and_admins_void_records_together(member: Client, role: str, rows: list[Any]) -> None:
    form = {"up_to": timezone.now().isoformat(), "count": 1, "reason": "Counted twice."}

    response = member.post("/admin/usage/usagerecord/void-many/?customer=123", form)

    assert response.status_code == (302 if role in STAFF_AND_ADMINS else 403)
    assert UsageRecord.objects.count() == (2 if role in STAFF_AND_ADMINS else 1)


def test_staff_and_admins_accept_duplicates_and_lift_that(
    member: Client, role: str, rows: list[Any]
) -> None:
    bill = rows[1]
    bill.possible_duplicates.create(
        service="x",
        price_per_unit=1,
        records=1,
        amount=0,
        pairs=[],
        since=timezone.now(),
    )
    in_force = AcceptedDuplicates.objects.filter(lifted_at=None)

    member.post(page_of(bill, "accept") + "?service=x", {"reason": "Right."})
    assert in_force.exists() == (role in STAFF_AND_ADMINS)
    member.post(page_of(bill, "lift") + "?service=x")
    assert not in_force.exists()


def test_every_role_sees_the_lists_of_month_end(member: Client, rows: list[Any]) -> None:
    for name in ("attention", "to-close"):
        assert member.get(f"/admin/usage/bill/{name}/").status_code == 200


def test_admins_add_and_rename_customers(member: Client, role: str, rows: list[Any]) -> None:
    member.post(reverse("admin:usage_customer_add"), {"id": "9", "name": "New", "currency": "EUR"})
    member.post(page_of(rows[0]), {"name": "Alicia", "currency": "USD"})

    names = set(Customer.objects.values_list("name", flat=True))
    assert names == ({"New", "Alicia"} if role == "Billing admins" else {"Alice"})


def test_admins_issue_and_revoke_keys(member: Client, role: str, rows: list[Any]) -> None:
    member.post(
        reverse("admin:usage_apikey_add"), {"name": "New", "owner": "Kim", "contact": "555"}
    )
    member.post(page_of(rows[3], "revoke"))

    member.post(page_of(rows[3], "owner"), {"owner": "Lee", "contact": "555"})

    owners = set(ApiKey.objects.values_list("owner", flat=True))
    assert owners == ({"Kim", "Lee"} if role == "Billing admins" else {""})
    live = {api_key.name for api_key in ApiKey.objects.live()}
    assert live == ({"New"} if role == "Billing admins" else {"CDN"})


def test_no_role_deletes(member: Client, rows: list[Any]) -> None:
    for row in rows:
        assert member.post(page_of(row, "delete"), {"post": "yes"}).status_code == 403


def test_no_role_manages_accounts(member: Client) -> None:
    assert member.get("/admin/auth/user/").status_code == 403
