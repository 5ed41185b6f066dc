"""Staff issue API keys, seeing each once, and revoke them."""

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse

from usage.models import ApiKey
from usage.tests.staff import list_of, messages_of, page_of, staff, text_of

pytestmark = pytest.mark.django_db

ISSUE = "admin:usage_apikey_add"


def issue(client: Client, **data: str) -> Any:
    """Issue a key through its form."""
    return client.post(reverse(ISSUE), {"name": "CDN", **data})


def key_on(page: str) -> str:
    """Return the key that a page shows."""
    (key,) = re.findall(r'value="(ub_[^"]+)"', page)
    return str(key)


def test_the_answer_shows_a_key_that_works(admin_client: Client) -> None:
    response = issue(admin_client)

    key = key_on(text_of(response))
    assert ApiKey.objects.identify(key) == ApiKey.objects.get(name="CDN")
    assert "no-store" in response["Cache-Control"]


def test_the_key_is_shown_once_and_kept_nowhere(admin_client: Client) -> None:
    key = key_on(text_of(issue(admin_client)))
    api_key = ApiKey.objects.get()

    for page in (reverse(ISSUE), page_of(api_key), page_of(api_key, "history"), list_of("apikey")):
        assert key not in text_of(admin_client.get(page))
    assert key not in str(LogEntry.objects.values())
    assert key not in str([session.get_decoded() for session in Session.objects.all()])
    assert key not in str(admin_client.cookies)
    assert LogEntry.objects.get().object_id == str(api_key.pk)


def test_several_keys_live_under_one_name(admin_client: Client) -> None:
    first, second = (key_on(text_of(issue(admin_client))) for _ in range(2))

    assert first != second
    assert ApiKey.objects.live().filter(name="CDN").count() == 2


@pytest.mark.parametrize("name", ["", "  ", "x" * 101])
def test_a_key_without_a_fitting_name_is_refused(admin_client: Client, name: str) -> None:
    assert "errorlist" in text_of(issue(admin_client, name=name))
    assert not ApiKey.objects.exists()


def test_revoking_is_a_post_behind_a_page_that_says_what_will_happen(admin_client: Client) -> None:
    api_key, key = ApiKey.objects.issue(name="CDN")

    page = text_of(admin_client.get(page_of(api_key, "revoke")))
    assert "refused within a second" in page
    assert ApiKey.objects.identify(key)

    response = admin_client.post(page_of(api_key, "revoke"), follow=True)
    assert messages_of(response) == ["The key is revoked."]
    assert ApiKey.objects.identify(key) is None
    assert LogEntry.objects.get().change_message == "Revoked."
    assert ">revoked<" in text_of(admin_client.get(list_of("apikey")))


def test_revoking_twice_changes_nothing(admin_client: Client) -> None:
    api_key, _ = ApiKey.objects.issue(name="CDN")
    api_key.revoke()

    assert "revoked already" in text_of(admin_client.get(page_of(api_key, "revoke")))
    response = admin_client.post(page_of(api_key, "revoke"), follow=True)

    assert messages_of(response) == ["The key was revoked already; nothing was changed."]
    assert "Revoke this key" not in text_of(admin_client.get(page_of(api_key)))


def test_a_viewer_neither_issues_nor_revokes() -> None:
    api_key, _ = ApiKey.objects.issue(name="CDN")
    viewer = staff("view_apikey")

    assert issue(viewer).status_code == 403
    assert viewer.get(reverse(ISSUE)).status_code == 403
    assert viewer.post(page_of(api_key, "revoke")).status_code == 403
    assert ApiKey.objects.live().get() == api_key


@pytest.mark.parametrize("asked", ["CDN", "cd"])
def test_keys_are_found_by_name_and_prefix(admin_client: Client, asked: str) -> None:
    api_key, _ = ApiKey.objects.issue(name="CDN")
    ApiKey.objects.issue(name="Storage")

    for term in (asked, api_key.prefix):
        found = admin_client.get(list_of("apikey", q=term)).context["cl"].result_list
        assert api_key in found
