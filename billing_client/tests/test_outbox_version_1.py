"""Directories of version 1 are taken over."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing_client.commands.main import main
from billing_client.outbox.directory import Directory
from billing_client.tests.faulty import FaultyServer
from billing_client.tests.outboxes import (
    contents,
    drained,
    eventually,
    fact,
    hurried,
    rejected,
    run,
)

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
    connection.execute("BEGIN")
    values = [(name, fact(name).to_json()) for name in ids]
    connection.executemany("INSERT INTO usage VALUES (NULL, ?, ?, 0, 1795000000.5)", values)
    connection.execute("COMMIT")
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
    with hurried(server.url, tmp_path) as billing:
        assert not billing.resend(began - timedelta(hours=1)).complete
        assert billing.resend(began + timedelta(seconds=2)).complete
