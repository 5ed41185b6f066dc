"""What operators ask: does the process live, and can it do its work."""

import datetime as dt
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from pytest_django.fixtures import Settings

from usage.database import migrations, triggers
from usage.models import Bill, Customer

pytestmark = pytest.mark.django_db


def test_the_process_answers_without_a_database(
    client: Client, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        assert client.get("/livez").json() == {"status": "ok"}


def test_a_service_that_can_record_is_ready(client: Client, customer: Customer) -> None:
    response = client.get("/readyz")

    assert response.status_code == 200
    assert response.json() == {"status": "ok", "missing": []}


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_operators_ask_by_any_host_name_and_without_https(
    client: Client, settings: Settings, path: str
) -> None:
    settings.SECURE_SSL_REDIRECT = True

    assert client.get(path, headers={"Host": "10.0.0.1:8000"}).status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_operators_ask_and_do_not_post(client: Client, path: str) -> None:
    assert client.head(path).status_code == 200
    assert client.post(path).status_code == 405


def test_a_database_that_does_not_answer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(migrations, "MigrationExecutor", away)

    response = client.get("/readyz")

    assert response.status_code == 503
    assert "DATABASE_URL" in response.json()["missing"][0]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a server looks after its own disk")
@pytest.mark.parametrize(
    ("disk", "said"),
    [
        ({}, ""),
        ({"f_bavail": 100}, "disk of the database is full"),
        ({"f_flag": os.ST_RDONLY}, "cannot be written"),
    ],
)
def test_a_file_that_cannot_be_written_is_named(
    client: Client,
    customer: Customer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disk: dict[str, int],
    said: str,
) -> None:
    file = tmp_path / "books.sqlite3"
    file.touch()
    usual = {"f_bavail": 2**20, "f_frsize": 4096, "f_flag": 0}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**usual | disk))
    monkeypatch.setitem(connection.settings_dict, "NAME", str(file))

    response = client.get("/readyz")

    assert response.status_code == (503 if said else 200)
    assert said in "".join(response.json()["missing"])


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a server looks after its own file")
def test_a_file_of_another_owner_is_named(
    client: Client, customer: Customer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "books.sqlite3"
    file.touch()
    monkeypatch.setattr(os, "access", lambda path, _: path != file)  # root may write everything
    monkeypatch.setitem(connection.settings_dict, "NAME", str(file))

    assert "cannot be written" in client.get("/readyz").json()["missing"][0]


def test_a_missing_guard_is_named(client: Client) -> None:
    name = "record_on_open_bill"
    table = " ON usage_usagerecord" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TRIGGER {name}{table}")

    response = client.get("/readyz")

    assert response.status_code == 503
    assert name in response.json()["missing"][0]
    triggers.install(connection)
    assert client.get("/readyz").status_code == 200


def test_a_migration_that_is_not_applied_is_named(client: Client) -> None:
    newest = MigrationRecorder.Migration.objects.filter(app="usage").latest("name")
    newest.delete()

    response = client.get("/readyz")

    assert response.status_code == 503
    assert f"usage.{newest.name}" in response.json()["missing"][0]


def test_a_time_zone_that_is_not_the_bills_is_found(
    client: Client, customer: Customer, settings: Settings
) -> None:
    start = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
    end = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
    Bill.objects.create(customer=customer, month=start.date(), period_start=start, period_end=end)
    settings.TIME_ZONE = settings.BILLING_TIME_ZONE = "Pacific/Kiritimati"

    response = client.get("/readyz")

    assert response.status_code == 503
    assert "BILLING_TIME_ZONE" in response.json()["missing"][0]
