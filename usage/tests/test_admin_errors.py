"""Pages that refuse say what was wrong and lead back, under the same policy as all others."""

import itertools
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from usage.models import ApiKey, Bill, Customer, UsageRecord
from usage.tests.staff import page_of, report, staff

pytestmark = pytest.mark.django_db


def error_of(response: Any, status: int) -> str:
    """Return a page that refuses, which loads nothing inline and leads back."""
    page = str(response.content.decode())
    assert response.status_code == status
    assert '<link rel="icon"' in page
    assert 'href="/admin/">To the overview</a>' in page
    assert "<style" not in page
    return page


def test_an_address_without_a_page_says_so(client: Client) -> None:
    assert "There is no page at this address." in error_of(client.get("/nowhere"), 404)


def test_a_bill_that_is_not_there_is_named(admin_client: Client) -> None:
    page = error_of(admin_client.get("/admin/usage/bill/17/change/"), 404)

    assert "There is no bill with this id." in page


@pytest.mark.parametrize("object_id", ["17", "x", "%00", f"{10**30}"])
def test_a_customer_that_is_not_there_is_not_said_to_be_deleted(
    admin_client: Client, object_id: str
) -> None:
    page = error_of(admin_client.get(f"/admin/usage/customer/{object_id}/change/"), 404)

    assert "There is no customer with this id." in page


def test_an_export_with_a_malformed_filter_says_which(admin_client: Client) -> None:
    address = reverse("admin:usage_bill_export", query={"month": "<b>"})

    assert "&#x27;&lt;b&gt;&#x27; is not a month" in error_of(admin_client.get(address), 404)


@pytest.mark.parametrize("query", ["id__exact=3", "_to_field=customer", "customer__name=x"])
def test_a_filter_that_no_list_has_is_not_understood(admin_client: Client, query: str) -> None:
    page = error_of(admin_client.get(f"/admin/usage/bill/?{query}"), 400)

    assert "Nothing was done: the address or the form has a part" in page


def test_what_the_role_does_not_allow_is_said_so(customer: Customer) -> None:
    bill = report()

    page = error_of(staff("view_bill").post(page_of(bill, "close")), 403)

    assert "your role does not allow this" in page


def test_a_form_from_before_the_login_says_how_to_go_on(
    customer: Customer, admin_user: User
) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)

    page = error_of(client.post(page_of(report(), "close")), 403)

    assert "Open its page again" in page


def test_a_form_sent_after_the_session_ended_comes_back_with_its_reason(
    client: Client, customer: Customer, admin_user: User
) -> None:
    bill = report()
    form = {"expected_total": "2.90", "reason": "The customer\nleaves."}

    response: Any = client.post(page_of(bill, "close"), form, follow=True)

    assert "Your session ended; nothing was done." in response.content.decode()
    address = response.context["next"]
    client.force_login(admin_user)
    page = client.get(address).content.decode()
    assert "The customer\nleaves.</textarea>" in page
    bill.refresh_from_db()
    assert not bill.is_closed


def test_logging_out_twice_loses_no_form(client: Client) -> None:
    response: Any = client.post("/admin/logout/", follow=True)

    assert "Your session ended" not in response.content.decode()


def test_a_crash_says_so_in_the_style_of_the_pages(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("A bug.")

    monkeypatch.setattr("usage.admin.overview.Visit.__init__", crash)
    admin_client.raise_request_exception = False

    page = error_of(admin_client.get("/admin/"), 500)

    assert "Something went wrong" in page
    assert "look whether it was done before you send it again" in page
    assert "A bug." not in page


# The first reaches all code that the others do, so it alone is measured.
DOCTORED = [
    pytest.param(["%00"], id="a NUL"),
    pytest.param(
        ["0", "-1", "1.5", "0" * 30 + "1", "9" * 30, "9" * 5000, "%D9%A3", "_", "%C3%BC"],
        id="others",
        marks=pytest.mark.no_cover,
    ),
]
PAGES = {
    "customer": ("change", "history"),
    "bill": ("change", "close", "verify", "statement", "hold"),
    "usagerecord": ("change", "void"),
    "apikey": ("change", "history", "revoke", "owner", "traffic"),
}


@pytest.mark.parametrize("doctored", DOCTORED)
def test_no_doctored_address_is_a_server_error(
    admin_client: Client, customer: Customer, doctored: list[str]
) -> None:
    report()
    for model, pages in PAGES.items():
        for text, page in itertools.product(doctored, pages):
            address = f"/admin/usage/{model}/{text}/{page}/"
            assert admin_client.get(address).status_code in {200, 302, 404}, address


@pytest.mark.parametrize("doctored", DOCTORED)
@pytest.mark.parametrize("model", [Customer, Bill, UsageRecord, ApiKey])
def test_no_doctored_filter_is_a_server_error(
    admin_client: Client, customer: Customer, model: type[Model], doctored: list[str]
) -> None:
    report()
    filters: Any = admin.site.get_model_admin(model).list_filter
    names = ("p", "q", "no_filter", *(one.parameter_name for one in filters))

    for text, name in itertools.product(doctored, names):
        address = f"/admin/usage/{model._meta.model_name}/?{name}={text}"
        assert admin_client.get(address).status_code in {200, 302, 400}, address


@pytest.mark.parametrize("doctored", DOCTORED)
def test_no_doctored_page_of_a_history_is_a_server_error(
    admin_client: Client, customer: Customer, doctored: list[str]
) -> None:
    bill = report()

    for text, page in itertools.product(doctored, (page_of(bill), page_of(customer, "history"))):
        assert admin_client.get(f"{page}?before={text}").status_code == 200, text
