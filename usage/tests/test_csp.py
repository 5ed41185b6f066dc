"""Every answer says what a page may load: its own files, and nothing inline."""

import pytest
from django.test import Client

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "path", ["/admin/", "/admin/login/", "/api/docs/", "/api/schema/", "/livez", "/nowhere"]
)
def test_the_policy_is_sent(admin_client: Client, path: str) -> None:
    policy = admin_client.get(path)["Content-Security-Policy"]

    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/admin/", "/admin/login/", "/api/docs/"])
def test_pages_have_an_icon_and_nothing_inline(client: Client, path: str) -> None:
    page = client.get(path, follow=True).content.decode()

    assert '<link rel="icon"' in page
    assert "<style" not in page
    assert "<script>" not in page


def test_the_bare_address_leads_to_the_staffs_pages(client: Client) -> None:
    assert client.get("/")["Location"] == "/admin/"
