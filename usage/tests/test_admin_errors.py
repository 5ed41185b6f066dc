"""Pages that refuse say what was wrong and lead back, under the same policy as all others."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from usage.models import Customer
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


def test_an_export_with_a_malformed_filter_says_which(admin_client: Client) -> None:
    address = reverse("admin:usage_bill_export", query={"month": "<b>"})

    assert "&#x27;&lt;b&gt;&#x27; is not a month" in error_of(admin_client.get(address), 404)


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
