"""What docs/operations.md tells to do with PostgreSQL: restore an instant, read a standby."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from django.conf import settings
from django.core.management import call_command
from pytest_django.plugin import DjangoDbBlocker

from usage.ledger.facts import Recorded
from usage.ledger.record import record
from usage.models import CommandRun, UsageRecord
from usage.tests import postgresql
from usage.tests.books import Books, default_database, verify_bills
from usage.tests.cluster import Cluster, Node, cluster, wait_until
from usage.tests.factories import FactFactory

pytestmark = pytest.mark.cluster
PAGE = (Path(settings.BASE_DIR) / "docs/operations.md").read_text()
INSTANT = "2026-11-22 10:00:00+00"  # that the page gives as an example


def told(begin: str) -> str:
    """The block of the page that begins so."""
    (block,) = re.findall(rf"^```\w*\n({re.escape(begin)}.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(block)


def as_server(node: Node, folder: Path, command: str) -> None:
    """Run a command of the page as the server's user, with its own /backup and data folder."""
    command = command.replace("/backup", str(folder)).replace("/data", str(node.data))
    paths = f"PATH={postgresql.PROGRAMS}:/usr/bin:/bin"
    connection = f"PGHOST={node.folder}", "PGUSER=postgres"
    node.run("/usr/bin/env", paths, *connection, "sh", "-euc", command)


def is_created(books: Books, request_id: str) -> bool:
    """Report one usage; return if it was new."""
    with default_database(books.url):
        fact = FactFactory.build(request_id=request_id, customer_id=1)
        (outcome,) = record([fact], reported_by_id=None)
        assert isinstance(outcome, Recorded)
        return not outcome.replayed


@pytest.fixture
def archived(cluster_to_copy: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Cluster]:
    """A primary that archives its WAL as the page says."""
    with django_db_blocker.unblock(), cluster(cluster_to_copy) as servers:
        folder = servers.primary.folder.parent / "backup"
        (folder / "wal").mkdir(parents=True)
        for each in (folder, folder / "wal"):
            each.chmod(0o777)
        with (servers.primary.data / "postgresql.conf").open("a") as file:
            file.write(told("archive_mode").replace("/backup", str(folder)))
        servers.primary.stop()
        servers.primary.start()
        yield servers


@pytest.fixture
def restored(archived: Cluster) -> Cluster:
    """A primary that was restored as the page says to an instant between two records."""
    lost, backup = archived.primary, archived.primary.folder.parent / "backup"
    books = archived.filled()
    is_created(books, "before-the-backup")
    as_server(lost, backup, told("pg_basebackup"))
    is_created(books, "after-the-backup")
    instant = str(lost.value("SELECT clock_timestamp()"))
    is_created(books, "after-the-instant")
    segment = lost.value("SELECT pg_walfile_name(pg_switch_wal())")
    wait_until((backup / "wal" / segment).exists)
    lost.lose()

    archived.primary, archived.standby = archived.standby, Node(lost.folder.parent / "another")
    node = archived.primary
    (base,) = backup.glob("base-*")
    as_server(node, backup, told("cp -a").replace("base-2026-11-22", base.name))
    as_server(node, backup, told("cat >>").replace(INSTANT, instant))
    node.start()
    wait_until(lambda: node.value("SELECT NOT pg_is_in_recovery()"))
    for statement in told("ALTER SYSTEM RESET").splitlines():
        node.rows(statement)
    archived.books = books._replace(url=node.url_of("books"))
    return archived


def test_an_instant_is_restored_and_callers_resend_what_followed(restored: Cluster) -> None:
    books = restored.books
    with default_database(books.url):
        ids = set(UsageRecord.objects.values_list("pk", flat=True))
    assert ids == {"before-the-backup", "after-the-backup"}
    assert not is_created(books, "after-the-backup")
    assert is_created(books, "after-the-instant")
    verify_bills(books)


def test_a_standby_of_a_restored_primary_follows_it(restored: Cluster) -> None:
    restored.add_standby()

    is_created(restored.books, "after-the-instant")

    wait_until(lambda: replayed(restored))
    assert restored.standby.value("SELECT pg_is_in_recovery()")


@pytest.fixture
def standby(
    cluster_to_copy: Path, django_db_blocker: DjangoDbBlocker
) -> Iterator[tuple[Books, Cluster]]:
    """A primary, and a standby set as the page says, which ends any query in its way at once."""
    with django_db_blocker.unblock(), cluster(cluster_to_copy) as servers:
        books = servers.filled()
        is_created(books, "one")
        servers.add_standby()
        settings = dict(re.findall(r"`(hot_standby\w+) = (\w+)`", PAGE))
        settings |= {"max_standby_streaming_delay": "0", "wal_receiver_status_interval": "1"}
        for name, value in settings.items():
            servers.standby.set(name, value)
        yield books, servers


def test_verify_bills_reads_a_standby_and_keeps_its_result_on_the_primary(
    standby: tuple[Books, Cluster],
) -> None:
    books, servers = standby
    wait_until(lambda: replayed(servers))
    with default_database(books.url):
        call_command("verify_bills", "--read-from", servers.standby.url_of("books"), verbosity=0)

        (run,) = CommandRun.objects.all()
    assert (run.command, run.exit_status) == ("verify_bills", 0)


def test_a_long_read_of_a_standby_is_not_ended_by_what_the_primary_does(
    standby: tuple[Books, Cluster],
) -> None:
    books, servers = standby
    reading = "SELECT sum(records) FROM usage_dailyusage"
    with (
        contextlib.closing(psycopg2.connect(servers.standby.url_of("books"))) as reader,
        contextlib.closing(books.connect()) as writer,
        reader.cursor() as read,
        writer.cursor() as write,
    ):
        reader.set_session(isolation_level="REPEATABLE READ")
        read.execute(reading)
        known = "SELECT count(*) FROM pg_stat_replication WHERE backend_xmin IS NOT NULL"
        wait_until(lambda: servers.primary.value(known))
        write.execute("UPDATE usage_dailyusage SET records = records")
        write.execute("VACUUM usage_dailyusage")
        wait_until(lambda: replayed(servers))
        read.execute(reading)

        assert read.fetchall() == [(1,)]


def replayed(servers: Cluster) -> bool:
    """Whether the standby shows all that the primary has written."""
    written = servers.primary.value("SELECT pg_current_wal_insert_lsn()")
    return bool(servers.standby.value(f"SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"))
