"""Staff issue API keys, seeing each once, and revoke them."""

import re
import uuid
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse

from usage.models import ApiKey, Change
from usage.tests.staff import list_of, messages_of, page_of, staff, text_of

pytestmark = pytest.mark.django_db

ISSUE = "admin:usage_apikey_add"


def issue(client: Client, **data: str) -> Any:
    """Issue a key through its form."""
    sent = {"name": "CDN", "owner": "Kim", "contact": "kim@example.com"}
    return client.post(reverse(ISSUE), sent | data)


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
    assert key not in str(Change.objects.values())
    assert key not in str([session.get_decoded() for session in Session.objects.all()])
    assert key not in str(admin_client.cookies)
    assert Change.objects.get().api_key == api_key


def test_a_form_that_is_sent_twice_issues_one_key(admin_client: Client) -> None:
    form_id = str(uuid.uuid4())

    first = issue(admin_client, form_id=form_id)
    again = admin_client.post(
        reverse(ISSUE),
        {"name": "CDN", "owner": "Kim", "contact": "kim", "form_id": form_id},
        follow=True,
    )

    assert key_on(text_of(first))
    assert "ub_" not in text_of(again)
    assert "No second key was issued" in messages_of(again)[0]
    assert ApiKey.objects.count() == Change.objects.count() == 1


def test_each_form_has_an_id_of_its_own(admin_client: Client) -> None:
    ids = {
        re.findall(r'name="form_id" value="([^"]+)"', text_of(admin_client.get(reverse(ISSUE))))[0]
        for _ in range(2)
    }

    assert len(ids) == 2


@pytest.mark.parametrize("missing", ["owner", "contact"])
def test_a_key_is_issued_to_an_owner_with_a_contact(admin_client: Client, missing: str) -> None:
    assert "errorlist" in text_of(issue(admin_client, **{missing: " "}))
    assert not ApiKey.objects.exists()


def test_the_owner_of_a_key_changes_and_its_history_says_so(admin_client: Client) -> None:
    issue(admin_client)
    api_key = ApiKey.objects.get()
    sent = {"initial-owner": "Kim", "initial-contact": "kim@example.com"}

    admin_client.post(page_of(api_key, "owner"), sent | {"owner": "Lee", "contact": "555"})

    api_key.refresh_from_db()
    assert (api_key.owner, api_key.contact) == ("Lee", "555")
    page = text_of(admin_client.get(page_of(api_key, "history")))
    for said in ("issued the key", "changed owner", "Kim", "Lee", "changed contact"):
        assert said in page


def test_a_stale_form_keeps_the_contact_that_was_changed_meanwhile(admin_client: Client) -> None:
    api_key, _ = ApiKey.objects.issue(name="CDN", owner="Kim", contact="1")
    sent = {"initial-owner": "Kim", "initial-contact": "1", "owner": "Lee", "contact": "1"}
    ApiKey.objects.update(contact="2")

    admin_client.post(page_of(api_key, "owner"), sent)

    api_key.refresh_from_db()
    assert (api_key.owner, api_key.contact) == ("Lee", "2")


def test_the_history_of_a_key_says_why_it_was_revoked(admin_client: Client) -> None:
    api_key, _ = ApiKey.objects.issue(name="CDN")

    admin_client.post(page_of(api_key, "revoke"), {"reason": "It was in a chat."})

    page = text_of(admin_client.get(page_of(api_key, "history")))
    assert "revoked the key" in page
    assert "It was in a chat." in page


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
    assert Change.objects.filter(action="revoked").get().actor == "admin"
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
    assert viewer.post(page_of(api_key, "owner"), {"owner": "Sam"}).status_code == 403
    assert ApiKey.objects.live().get() == api_key


@pytest.mark.parametrize("asked", ["CDN", "cd"])
def test_keys_are_found_by_name_and_prefix(admin_client: Client, asked: str) -> None:
    api_key, _ = ApiKey.objects.issue(name="CDN")
    ApiKey.objects.issue(name="Storage")

    for term in (asked, api_key.prefix):
        found = admin_client.get(list_of("apikey", q=term)).context["cl"].result_list
        assert api_key in found
