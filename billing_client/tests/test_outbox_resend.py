"""Delivered usage can be sent once more; directories of version 1 are taken over."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing_client import BillingClient, ConfigurationError, Resent, UnavailableError
from billing_client.commands.main import main
from billing_client.fake.service import MemoryService
from billing_client.outbox.directory import Directory
from billing_client.tests.faulty import KEY, FaultyServer, cut, refuse
from billing_client.tests.outboxes import (
    contents,
    drained,
    eventually,
    fact,
    hurried,
    rejected,
    run,
)

HOUR = timedelta(hours=1)


def resent(server: FaultyServer, directory: Path, since: datetime | None = None) -> Resent:
    with hurried(server.url, directory) as billing:
        return billing.resend(since or datetime.now(UTC) - HOUR, timeout=60)


def sent(server: FaultyServer, directory: Path, *ids: str) -> None:
    with hurried(server.url, directory) as billing:
        for name in ids:
            billing.enqueue(fact(name))
        billing.flush(20)


def test_all_that_was_delivered_is_sent_again(
    outbox: BillingClient, server: FaultyServer, tmp_path: Path
) -> None:
    sent(server, tmp_path, *(f"n{n}" for n in range(1200)))
    progress: list[int] = []
    outbox.enqueue(fact("live"))  # in a file that is still written to
    assert outbox.flush(20).sent == 1
    server.service = restored = MemoryService(any_time=True)
    restored.answer(server.seen[0].body)
    lost = 1201 - len(restored.stored)
    server.script.extend([cut, refuse(503, "service_unavailable")])
    done = outbox.resend(datetime.now(UTC) - HOUR, on_progress=progress.append)
    assert (done.sent, done.created, done.refused, done.complete) == (1201, lost, (), True)
    assert progress == [500, 1000, 1201]


def test_only_what_was_delivered_is_sent_again(server: FaultyServer, tmp_path: Path) -> None:
    """Not records that were refused and then discarded, nor waiting ones."""
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("good"))
        billing.enqueue(fact("good", units_consumed=2))
        billing.enqueue(fact("early", customer_id=404))
        billing.flush(20)
        eventually(lambda: billing.stats().waiting_for == (404,))
    assert main(["--outbox", str(tmp_path), "discard", "good", "--reason", "A mistake."]) == 0
    done = resent(server, tmp_path)
    assert (done.sent, done.created, done.refused) == (1, 0, ())
    assert (contents(tmp_path), rejected(tmp_path)) == (["early"], [])


def test_whole_files_that_reach_to_ten_minutes_before_are_sent(
    server: FaultyServer, tmp_path: Path
) -> None:
    delivered = datetime.now(UTC)
    sent(server, tmp_path, "one")
    assert resent(server, tmp_path, delivered + timedelta(minutes=9)).sent == 1
    assert resent(server, tmp_path, delivered + timedelta(minutes=11)).sent == 0


def test_it_says_what_is_not_kept_any_more(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_API_KEY", KEY)
    sent(server, tmp_path, "one")
    directory = Directory(tmp_path)
    before = f"{datetime.now(UTC) - HOUR:%Y-%m-%dT%H:%MZ}"
    command = ["--url", server.url, "--outbox", str(tmp_path), "resend", "--since"]
    assert main([*command, before]) == 0
    directory.forget(*directory.kept())
    assert main([*command, before]) == 1
    since = directory.removed_until()
    assert since is not None
    assert main([*command, since.isoformat()]) == 0
    with pytest.raises(SystemExit):
        main([*command, "2026-11-22T10:00"])


def test_a_customer_that_the_restored_service_lacks_is_named(
    server: FaultyServer, tmp_path: Path
) -> None:
    sent(server, tmp_path, "one")
    server.service = MemoryService(unknown_customers={123}, any_time=True)
    assert resent(server, tmp_path).refused == ("one",)
    server.service.unknown_customers = ()
    assert resent(server, tmp_path).created == 1


def test_it_gives_up_in_time_and_with_a_reason(
    outbox: BillingClient, server: FaultyServer, tmp_path: Path
) -> None:
    sent(server, tmp_path, "one")
    server.script.extend([refuse(503, "service_unavailable", Retry_After="60")])
    with pytest.raises(UnavailableError, match="Run it once more"):
        outbox.resend(datetime.now(UTC) - HOUR, timeout=0.1)
    server.script.extend([refuse(401, "not_authenticated")])
    with pytest.raises(ConfigurationError, match="401"):
        outbox.resend(datetime.now(UTC) - HOUR)
    with pytest.raises(ConfigurationError, match="time zone"):
        outbox.resend(datetime(2026, 11, 22))  # noqa: DTZ001 - that is the fault


# Version 1

RECORD = "seq INTEGER PRIMARY KEY, request_id TEXT, record BLOB, stamped INTEGER, enqueued_at REAL"
SCHEMA = f"""
    CREATE TABLE usage ({RECORD});
    CREATE TABLE waiting ({RECORD}, reason TEXT, hours INTEGER);
    CREATE TABLE rejected ({RECORD}, rejected_at REAL, status INTEGER, code TEXT, problem TEXT);
    PRAGMA application_id = {0x42696C6C};
    PRAGMA user_version = 1;
"""


def version_1(directory: Path, *ids: str) -> sqlite3.Connection:
    """A file as version 1 wrote it, locked as its owner had it."""
    number = len(list(directory.glob("*.sqlite3")))
    path = directory / f"usage-20261122T10000{number}Z-17-0123456789ab.sqlite3"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(SCHEMA)
    for name in ids:
        values = name, fact(name).to_json()
        connection.execute("INSERT INTO usage VALUES (NULL, ?, ?, 0, 1795000000.5)", values)
    return connection


def test_files_of_version_1_are_taken_over(server: FaultyServer, tmp_path: Path) -> None:
    old = version_1(tmp_path, *(f"n{n}" for n in range(1500)))
    record = fact("early", customer_id=404).to_json()
    early = "INSERT INTO waiting VALUES (1, 'early', ?, 0, ?, 'unknown_customer', 3)"
    old.execute(early, (record, datetime.now(UTC).timestamp()))
    refused = "INSERT INTO rejected VALUES (1, 'bad', ?, 0, 1, 2, 400, 'validation_error', 'No.')"
    old.execute(refused, (fact("bad").to_json(),))
    old.close()
    status = ["--outbox", str(tmp_path), "status"]
    assert main(status) == 2
    with hurried(server.url, tmp_path) as billing:
        eventually(lambda: billing.flush(20).pending == 1)
        assert billing.stats().waiting_for == (404,)
    assert len(server.service.stored) == 1500
    assert (contents(tmp_path), rejected(tmp_path)) == (["early"], ["bad"])
    assert list(tmp_path.glob("*.sqlite3*")) == []
    assert main(status) == 1


def test_a_file_that_version_1_still_writes_to_is_left_alone(
    server: FaultyServer, tmp_path: Path
) -> None:
    old = version_1(tmp_path, "one")
    assert drained(tmp_path, server) == set()
    values = "two", fact("two").to_json()
    old.execute("INSERT INTO usage VALUES (NULL, ?, ?, 0, 1)", values)
    old.close()
    assert drained(tmp_path, server) == {"one", "two"}


@pytest.mark.live  # starts processes
def test_a_process_that_dies_while_taking_over_loses_nothing(
    server: FaultyServer, tmp_path: Path
) -> None:
    version_1(tmp_path, *(f"n{n}" for n in range(1500))).close()
    script = """
from pathlib import Path
unlink = Path.unlink
def dies(path, **options):
    if path.suffix == ".sqlite3":
        os.kill(os.getpid(), signal.SIGKILL)
    unlink(path, **options)
Path.unlink = dies
billing.flush(30)
"""
    assert run(script, server.url, tmp_path)[0] == -9
    assert len(list(tmp_path.glob("*.sqlite3"))) == 1
    assert len(drained(tmp_path, server)) == 1500


@pytest.mark.parametrize("content", [b"rubbish" * 1000, b""])
def test_other_sqlite_files_stop_nothing(
    server: FaultyServer, tmp_path: Path, content: bytes
) -> None:
    version_1(tmp_path, "one").close()
    other = tmp_path / "usage-20261122T100000Z-1-0.sqlite3"
    other.write_bytes(content)
    assert drained(tmp_path, server) == {"one"}
    assert other.exists() == bool(content)


def test_what_version_1_delivered_is_not_claimed_to_be_kept(
    server: FaultyServer, tmp_path: Path
) -> None:
    version_1(tmp_path, "one").close()
    began = datetime.now(UTC)
    assert Directory(tmp_path).service() is None
    (tmp_path / "delivered").mkdir()
    Directory(tmp_path).claim(f"{server.url}/api/v1/usage/")
    drained(tmp_path, server)
    assert not resent(server, tmp_path, began - HOUR).complete
    assert resent(server, tmp_path, began + timedelta(seconds=2)).complete
