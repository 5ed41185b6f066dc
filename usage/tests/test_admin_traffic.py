"""Staff see what came by each key, and find what was refused."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import Group, User
from django.test import Client

from usage.api.traffic import traffic
from usage.models import ApiKey, Counts, Customer, Refusal, RefusalNote, Traffic
from usage.tests.conftest import Post
from usage.tests.factories import usage_body
from usage.tests.staff import list_of, page_of, queries, report, staff, text_of

pytestmark = pytest.mark.django_db

NOW = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
TODAY = NOW.date()
DAY = dt.timedelta(days=1)
HOSTILE = "<script>alert(1)</script> \"><img src=x onerror='alert(1)'> =1+1"


@pytest.fixture(autouse=True)
def _noon() -> Any:
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def key() -> ApiKey:
    return ApiKey.objects.issue(name="CDN")[0]


def came(key: ApiKey, *, day: dt.date = TODAY, **counts: int) -> None:
    Traffic.objects.add_counts({(key.pk, day): Counts(**counts)})


def refused(key: ApiKey, request_id: str = "cdn:17", **values: Any) -> None:
    given = {"at": NOW, "status": 400, "code": "validation_error", "detail": "Wrong.", **values}
    Refusal.objects.keep({key.pk: [RefusalNote(request_id=request_id, **given)]})


def test_a_keys_page_leads_to_its_last_thirty_days(admin_client: Client, key: ApiKey) -> None:
    came(key, created=1200, refused=3)
    came(key, created=5, replayed=2, conflicting=1, day=TODAY - 29 * DAY)
    came(key, created=7, day=TODAY - 30 * DAY)
    assert page_of(key, "traffic") in text_of(admin_client.get(page_of(key)))

    context = admin_client.get(page_of(key, "traffic")).context

    days = dict(context["days"])
    assert len(days) == 30
    assert days["2026-11-23"] == ["1,200", "0", "0", "3"]
    assert days["2026-10-25"] == ["5", "2", "1", "0"]
    assert context["total"] == ["1,205", "2", "1", "3"]


def test_what_was_refused_is_shown_with_its_problem(
    admin_client: Client, post: Post, customer: Customer
) -> None:
    post(usage_body(request_id="cdn:17", customer_id=999, service="CDN"))
    post(usage_body(request_id="cdn:18"))
    post(usage_body(request_id="cdn:18", units_consumed=5))
    traffic.flush()

    refusals = admin_client.get(page_of(ApiKey.objects.get(), "traffic")).context["refusals"]

    (conflict, *_, record_url), (unknown, *_) = refusals
    assert (unknown.status, unknown.code) == (404, "unknown_customer")
    assert (unknown.request_id, unknown.customer_id, unknown.service) == ("cdn:17", 999, "CDN")
    assert "differs in units_consumed" in conflict.detail
    assert admin_client.get(record_url).status_code == 200


def test_other_keys_have_pages_of_their_own(admin_client: Client, key: ApiKey) -> None:
    other, _ = ApiKey.objects.issue(name="Storage")
    came(other, refused=1)
    refused(other)

    context = admin_client.get(page_of(key, "traffic")).context

    assert not context["refusals"]
    assert context["total"] == ["0"] * 4
    assert not any(counts for _, counts in context["days"])


def test_the_list_says_when_each_key_was_used_last(admin_client: Client, key: ApiKey) -> None:
    ApiKey.objects.issue(name="Storage")
    came(key, created=1, day=TODAY - DAY)
    came(key, refused=1, day=TODAY - 9 * DAY)

    page = text_of(admin_client.get(list_of("apikey")))

    assert f'<a href="{page_of(key, "traffic")}">2026-11-22</a>' in page
    assert page.count(">never</a>") == 1


def test_searching_for_a_refused_request_id_finds_the_refusal(
    admin_client: Client, key: ApiKey
) -> None:
    refused(key, detail="There is no customer with this id.")

    page = text_of(admin_client.get(list_of("usagerecord", q=" cdn:17 ")))

    assert "Nothing found." in page
    assert "There is no customer with this id." in page
    assert page_of(key, "traffic") in page


def test_a_record_is_found_together_with_the_conflict_that_it_met(
    admin_client: Client, key: ApiKey, customer: Customer
) -> None:
    report(request_id="cdn:17")
    refused(key, status=409, code="occurred_at_conflict")

    context = admin_client.get(list_of("usagerecord", q="cdn:17")).context

    assert len(context["cl"].result_list) == len(context["refusals"]) == 1


def test_an_unknown_request_id_is_reported_as_unknown(
    admin_client: Client, customer: Customer
) -> None:
    report(request_id="cdn:18")
    said = "It is not among the last 50 refusals of any API key"

    assert said in text_of(admin_client.get(list_of("usagerecord", q="cdn:17")))
    assert said not in text_of(admin_client.get(list_of("usagerecord", q="cdn:18")))
    assert said not in text_of(admin_client.get(list_of("usagerecord")))


def test_the_overview_names_the_keys_with_trouble_today(admin_client: Client, key: ApiKey) -> None:
    other, _ = ApiKey.objects.issue(name="Storage")
    came(key, created=100, conflicting=1)
    came(other, refused=2000, conflicting=3)
    came(ApiKey.objects.issue(name="Fine")[0], created=1, replayed=1)
    came(ApiKey.objects.issue(name="Better now")[0], refused=1, day=TODAY - DAY)

    rows = admin_client.get("/admin/").context["troubled_keys"]

    assert [(url, conflicting, refused) for url, _, conflicting, refused in rows] == [
        (page_of(other, "traffic"), "3", "2,000"),
        (page_of(key, "traffic"), "1", "0"),
    ]


def test_the_overview_names_live_keys_that_were_not_used_for_ninety_days(
    admin_client: Client,
) -> None:
    with time_machine.travel(NOW - 91 * DAY, tick=False):
        keys = {name: ApiKey.objects.issue(name=name)[0] for name in "abcd"}
    ApiKey.objects.issue(name="new")
    came(keys["a"], created=1, day=TODAY - 91 * DAY)
    came(keys["b"], refused=1, day=TODAY - 90 * DAY)
    keys["c"].revoke()

    rows = admin_client.get("/admin/").context["unused_keys"]

    assert {url: last_used for url, _, last_used in rows} == {
        page_of(keys["a"], "traffic"): "2026-08-24",
        page_of(keys["d"], "traffic"): "never",
    }


@pytest.mark.parametrize("role", ["Billing viewers", "Billing staff", "Billing admins"])
def test_every_role_sees_traffic(role: str, key: ApiKey) -> None:
    refused(key)
    user = User.objects.create_user("Sam", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)

    assert "cdn:17" in text_of(client.get(page_of(key, "traffic")))
    assert "Wrong." in text_of(client.get(list_of("usagerecord", q="cdn:17")))
    assert "unused_keys" in client.get("/admin/").context


def test_traffic_requires_the_permission_to_see_it(key: ApiKey) -> None:
    refused(key)
    came(key, refused=1)
    member = staff("view_apikey", "view_usagerecord")

    assert member.get(page_of(key, "traffic")).status_code == 403
    for address in ("/admin/", page_of(key), list_of("apikey"), list_of("usagerecord", q="cdn:17")):
        page = text_of(member.get(address))
        assert "Wrong." not in page
        assert "/traffic/" not in page


def test_traffic_cannot_be_changed(admin_client: Client, key: ApiKey) -> None:
    assert admin_client.post(page_of(key, "traffic")).status_code == 405
    assert admin_client.get("/admin/usage/traffic/").status_code == 404
    assert admin_client.get("/admin/usage/apikey/999/traffic/").status_code == 404


@pytest.mark.parametrize("text", [HOSTILE, "שלום abc", "漢" * 100])
def test_what_a_caller_wrote_is_shown_as_text(
    admin_client: Client, post: Post, customer: Customer, text: str
) -> None:
    post({"request_id": text, "service": text, text: 1, "customer_id": 123})
    traffic.flush()
    kept = Refusal.objects.get()

    for address in (
        page_of(ApiKey.objects.get(), "traffic"),
        list_of("usagerecord", q=kept.request_id),
    ):
        response = admin_client.get(address)
        assert len(response.context["refusals"]) == 1
        assert "<script>alert" not in text_of(response)
        assert "<img src=x" not in text_of(response)


def test_a_page_of_the_longest_refusals_stays_small(admin_client: Client, key: ApiKey) -> None:
    longest = {"detail": "x" * 300, "service": "y" * 100, "customer_id": 2**63 - 1}
    for number in range(50):
        refused(key, f"{number:0128}", **longest)
    for back in range(40):
        came(key, created=10**12, day=TODAY - back * DAY)
    admin_client.get(page_of(key, "traffic"))

    with queries() as statements:
        page = text_of(admin_client.get(page_of(key, "traffic")))

    assert len(statements) <= 6
    assert len(page.encode()) < 60_000


def test_the_overview_costs_as_much_with_many_keys_as_with_few(admin_client: Client) -> None:
    def costs() -> int:
        with queries() as statements:
            admin_client.get("/admin/")
        return len(statements)

    admin_client.get("/admin/")
    few = costs()
    with time_machine.travel(NOW - 91 * DAY, tick=False):
        for number in range(30):
            came(ApiKey.objects.issue(name=f"No. {number}")[0], refused=1)

    assert costs() <= few + 1 <= 16
