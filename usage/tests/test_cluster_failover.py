"""A primary with a synchronous standby: acknowledged records survive the primary."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection
from django.test import Client
from pytest_django.plugin import DjangoDbBlocker

from usage.database import deadline
from usage.database.postgresql import waiting
from usage.models import Customer
from usage.tests.books import Books, assert_books_balance, default_database, verify_bills
from usage.tests.cluster import PATIENCE_SECONDS, Cluster, cluster, wait_until
from usage.tests.factories import usage_body
from usage.tests.live import Service

pytestmark = pytest.mark.cluster


@pytest.fixture
def servers(cluster_to_copy: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Cluster]:
    with cluster(cluster_to_copy) as servers, django_db_blocker.unblock():
        servers.books = servers.filled()
        servers.add_standby()
        yield servers


def fail_over(servers: Cluster) -> Books:
    """Lose the primary and promote the standby; return the books there."""
    servers.primary.lose()
    servers.standby.promote()
    servers.standby.set("synchronous_standby_names", "")
    return servers.books._replace(url=servers.standby.url_of("books"))


def test_the_service_follows_the_primary_and_nothing_acknowledged_is_lost(
    servers: Cluster,
) -> None:
    with Service(servers.books, url=servers.url, workers=1) as service:
        caller = service.caller()
        bodies = [usage_body(customer_id=1 + number) for number in range(10)]
        answers = [caller.post(body) for body in bodies]
        batch = [usage_body(customer_id=20) for _ in range(50)]
        results = caller.post(batch).json["results"]

        survivors = fail_over(servers)

        wait_until(lambda: service.caller().ready().status == 200)
        again = [caller.post(body) for body in bodies]
        answered = [answer.json for answer in answers] + [result["record"] for result in results]
        assert [answer.status for answer in again] == [200] * 10
        assert [answer.body for answer in again] == [answer.body for answer in answers]
        assert_books_balance(survivors, answered=answered)
        verify_bills(survivors)


def test_a_record_found_after_a_crash_is_not_acknowledged_before_the_standby_has_it(
    servers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HASTY_SECONDS", "3")
    with (
        Service(
            servers.books,
            url=servers.url,
            workers=1,
            application="usage.tests.hasty",
            preload=False,
        ) as service,
        ThreadPoolExecutor(1) as pool,
    ):
        body = usage_body(customer_id=1)
        servers.standby.freeze()
        first = pool.submit(service.caller().post, body)
        wait_until(lambda: servers.waiting_commits() == 1)
        waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        os.kill(servers.primary.value(waits), signal.SIGKILL)
        statuses = [first.result(PATIENCE_SECONDS).status]
        wait_until(lambda: recovered(servers))
        # It is stored and visible there, but on no other server.
        found = f"SELECT 1 FROM usage_usagerecord WHERE request_id = '{body['request_id']}'"
        assert servers.books.rows(found) == [(1,)]
        statuses.append(service.caller().post(body).status)

        servers.standby.thaw()
        survivors = fail_over(servers)

        assert statuses == [503, 503]
        wait_until(lambda: service.caller().ready().status == 200)
        answer = service.caller().post(body)
        assert answer.status in {200, 201}
        assert_books_balance(survivors, answered=[answer.json])


def recovered(servers: Cluster) -> bool:
    try:
        return bool(servers.primary.value("SELECT true"))
    except Exception:  # noqa: BLE001 - while it recovers, it refuses in several ways
        return False


def test_a_service_on_a_standby_is_not_ready(servers: Cluster) -> None:
    with default_database(servers.standby.url_of("books")):
        response = Client().get("/readyz")

    assert response.status_code == 503
    assert "The server is a standby" in response.json()["missing"][0]


@pytest.mark.measured
def test_a_silent_host_is_passed_over(servers: Cluster) -> None:
    """In a process that keeps the time; libpq by itself would not notice."""
    waiting.install()
    servers.standby.freeze()
    hosts = f"{servers.standby.folder},{servers.primary.folder}"
    with (
        default_database(servers.url, host=hosts, connect_timeout=1),
        deadline.within(PATIENCE_SECONDS),
    ):
        assert Customer.objects.exists()
        assert connection.connection.info.host == str(servers.primary.folder)
