"""The time zone is kept with the books; a process with another one may not use them."""

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from usage.ledger.close import close
from usage.ledger.record import record
from usage.models import Bill, BillingTimeZone, Customer, OtherTimeZone, UsageRecord
from usage.models.time_zone import TimeZoneQuerySet
from usage.tests.conftest import DatabaseClock, Post
from usage.tests.factories import FactFactory, usage_body
from usage.tests.guarded import on_postgresql, run
from usage.verification import Verification

pytestmark = pytest.mark.django_db


@pytest.fixture
def bill(customer: Customer) -> Bill:
    """The first bill, opened by a process in UTC."""
    record([FactFactory.build()], reported_by_id=None)
    bill: Bill = Bill.objects.get()
    return bill


@pytest.fixture
def vienna(bill: Bill, settings: Settings) -> Settings:
    """A process in another zone than the first bill's."""
    settings.TIME_ZONE = settings.BILLING_TIME_ZONE = "Europe/Vienna"
    return settings


def test_the_first_bill_keeps_the_zone_of_the_process(bill: Bill) -> None:
    assert BillingTimeZone.objects.kept() == "UTC"


def test_a_refused_request_keeps_no_zone(db: None) -> None:
    record([FactFactory.build(customer_id=4711)], reported_by_id=None)
    assert BillingTimeZone.objects.kept() is None


def test_loaddata_keeps_the_zone(db: None) -> None:
    call_command("loaddata", "sample_data", verbosity=0)
    assert BillingTimeZone.objects.kept() == "UTC"


def test_loaddata_refuses_bills_of_another_zone_whole(db: None, settings: Settings) -> None:
    settings.TIME_ZONE = settings.BILLING_TIME_ZONE = "Europe/Vienna"

    with pytest.raises(OtherTimeZone, match="BILLING_TIME_ZONE=Europe/Vienna"):
        call_command("loaddata", "sample_data", verbosity=0)

    assert not Customer.objects.exists()
    assert BillingTimeZone.objects.kept() is None


def test_a_process_in_another_zone_records_nothing_until_it_is_mended(
    vienna: Settings, post: Post, customer: Customer
) -> None:
    assert post(usage_body()).status_code == 503
    assert UsageRecord.objects.count() == 1

    vienna.TIME_ZONE = vienna.BILLING_TIME_ZONE = "UTC"
    assert post(usage_body()).status_code == 201


def test_a_process_in_another_zone_closes_nothing(bill: Bill, vienna: Settings) -> None:
    with pytest.raises(
        OtherTimeZone,
        match="are kept in the time zone UTC, but BILLING_TIME_ZONE is Europe/Vienna: set it to",
    ):
        close(bill, by="Sam")
    assert not Bill.objects.get().is_closed


@pytest.mark.parametrize("command", ["close_bills", "verify_bills"])
def test_a_command_in_another_zone_does_nothing(command: str, vienna: Settings) -> None:
    with pytest.raises(OtherTimeZone, match="BILLING_TIME_ZONE is Europe/Vienna"):
        call_command(command)


def test_nothing_is_verified_in_another_zone(vienna: Settings) -> None:
    with pytest.raises(OtherTimeZone):
        list(Verification().differences())


@pytest.mark.parametrize("alias", ["Etc/UTC", "Zulu", "Etc/Universal"])
def test_an_alias_is_the_same_zone(alias: str, bill: Bill, settings: Settings) -> None:
    settings.TIME_ZONE = settings.BILLING_TIME_ZONE = alias
    BillingTimeZone.objects.confirm()


def test_a_zone_whose_clocks_agree_today_is_another_zone(bill: Bill, settings: Settings) -> None:
    settings.TIME_ZONE = settings.BILLING_TIME_ZONE = "Atlantic/Reykjavik"
    with pytest.raises(OtherTimeZone):
        BillingTimeZone.objects.confirm()


@on_postgresql
def test_of_two_processes_that_open_the_first_bill_one_keeps_its_zone(
    customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("INSERT INTO usage_billingtimezone (id, name) VALUES (1, 'Europe/Vienna')")()
    read = TimeZoneQuerySet.kept
    stale = iter([None])
    monkeypatch.setattr(TimeZoneQuerySet, "kept", lambda self: next(stale, read(self)))

    with pytest.raises(OtherTimeZone, match="kept in the time zone Europe/Vienna"):
        BillingTimeZone.objects.keep(Bill.objects.all())


def test_bills_that_an_older_version_opened_decide_which_zone_is_kept(
    customer: Customer, settings: Settings, database_clock: DatabaseClock
) -> None:
    run(
        "INSERT INTO usage_bill (customer_id, month, period_start, period_end, currency) VALUES"
        " (123, '2026-11-01', '2026-11-01 00:00:00', '2026-12-01 00:00:00', 'USD')"
    )()
    database_clock.set("2026-11-20T12:00:00Z")
    settings.TIME_ZONE = settings.BILLING_TIME_ZONE = "Europe/Vienna"
    with pytest.raises(OtherTimeZone, match=f"Bill {Bill.objects.get().pk} of 2026-11 covers"):
        record([FactFactory.build()], reported_by_id=None)

    settings.TIME_ZONE = settings.BILLING_TIME_ZONE = "UTC"
    record([FactFactory.build()], reported_by_id=None)

    assert BillingTimeZone.objects.kept() == "UTC"


def test_a_misfit_with_an_instant_that_django_writes_in_another_way_is_named(
    customer: Customer, database_clock: DatabaseClock
) -> None:
    run(
        "INSERT INTO usage_bill (customer_id, month, period_start, period_end, currency) VALUES"
        " (123, '2026-11-01', '2026-11-01 00:00:00', '2026-11-15 10:00:00.5', 'USD')"
    )()
    database_clock.set("2026-11-20T12:00:00Z")

    with pytest.raises(OtherTimeZone, match=f"Bill {Bill.objects.get().pk} of 2026-11 covers"):
        record([FactFactory.build()], reported_by_id=None)


def test_recording_asks_for_the_zone_in_a_statement_that_it_sends_anyway(bill: Bill) -> None:
    with CaptureQueriesContext(connection) as queries:
        record([FactFactory.build()], reported_by_id=None)

    # On PostgreSQL it is part of a statement that was prepared, so its text is not sent.
    asking = [query["sql"] for query in queries if "usage_billingtimezone" in query["sql"]]
    assert len(asking) == (1 if connection.vendor == "sqlite" else 0)


@pytest.mark.parametrize("path", ["", "usage/bill/", "usage/bill/export.csv", "login/"])
def test_a_process_in_another_zone_shows_no_page_but_says_why(
    path: str, vienna: Settings, admin_client: Client
) -> None:
    response = admin_client.get(f"/admin/{path}")

    assert response.status_code == 503
    text = response.content.decode()
    assert "kept in the time zone UTC, but BILLING_TIME_ZONE is Europe/Vienna" in text
    assert "Nothing is lost" in text

    vienna.TIME_ZONE = vienna.BILLING_TIME_ZONE = "UTC"
    assert admin_client.get("/admin/usage/bill/").status_code == 200


def test_the_probe_of_a_process_in_another_zone_says_so(vienna: Settings, client: Client) -> None:
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "BILLING_TIME_ZONE is Europe/Vienna" in response.json()["missing"][0]
