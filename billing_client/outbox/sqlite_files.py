"""Takes over the SQLite files in which version 1 kept usage. Version 3 drops this module.

The usage of each file is copied to the outbox, the refused records with their reasons, and then
the file is removed; a process that dies in between leaves records twice, which are replays.
Files of processes that still run version 1 are locked, and left alone until these end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from billing_client.errors import BillingError
from billing_client.outbox.directory import REMOVED, Directory
from billing_client.outbox.segment import TIME, Row, Segment, line_of

try:
    import sqlite3
except ImportError:
    _HAS_SQLITE = False  # in small builds of Python, which cannot have made such files
else:
    _HAS_SQLITE = True

_APPLICATION_ID = 0x42696C6C
_VERSION = 1
_CHUNK = 1000
_COLUMNS = {
    "usage": "seq, record, stamped, enqueued_at",
    "waiting": "seq, record, stamped, enqueued_at",
    "rejected": "seq, record, stamped, enqueued_at, request_id, status, code, problem",
}


def take_over(directory: Directory, report: Callable[[Path, Exception], None]) -> None:
    """Move the usage of the SQLite files that no process has open to segments that none has.

    ``report`` is told of a file that cannot be read. Raises OSError where a line cannot be
    written; then the rest of the file is moved at the next call.
    """
    if not _HAS_SQLITE:
        return
    for path in sorted(directory.path.glob("usage-*.sqlite3")):
        try:
            address = f"file:{quote(str(path))}?mode=rw"
            connection = sqlite3.connect(address, uri=True, timeout=0, isolation_level=None)
            with closing(connection):
                if _locked(connection, path):
                    # What version 1 delivered was not kept.
                    marker = f"{REMOVED}{time.strftime(TIME, time.gmtime())}-version-1"
                    (directory.kept_path / marker).touch()
                    _move(connection, directory)
                    # Before the lock goes, or another process could open it in between.
                    Path(f"{path}-wal").unlink(missing_ok=True)
                    path.unlink()
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            is_in_use = name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
            if not is_in_use and path.exists():
                report(path, error)
        except ValueError as error:
            report(path, error)


def left_over(directory: Path) -> list[Path]:
    """The SQLite files that wait to be taken over."""
    return sorted(directory.glob("usage-*.sqlite3"))


def _locked(connection: sqlite3.Connection, path: Path) -> bool:
    """Make the file of an ended process ours. Raises ValueError if it is not of this library."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("COMMIT")
    if not path.exists():
        return False  # removed between being opened and being locked
    (identity,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if identity == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchall():
        path.unlink()  # its process died before it wrote anything
        return False
    if identity != _APPLICATION_ID or version != _VERSION:
        raise ValueError("it is not an outbox of version 1 of this library")
    return True


def _move(connection: sqlite3.Connection, directory: Directory) -> None:
    segment = Segment.create(directory.path, "usage")
    for table, columns in _COLUMNS.items():
        while rows := connection.execute(
            f"SELECT {columns} FROM {table} ORDER BY seq LIMIT {_CHUNK}"  # noqa: S608 - constants
        ).fetchall():
            for _, record, stamped, at, *refusal in rows:
                if refusal:
                    request_id, status, code, problem = refusal
                    row = Row(b"", 0, at, bool(stamped), record, request_id)
                    error = BillingError(problem, status_code=status, code=code)
                    directory.reject(row, error, at)
                else:
                    segment.append(line_of(record, stamped=bool(stamped), at=at))
            connection.execute(f"DELETE FROM {table} WHERE seq <= ?", (rows[-1][0],))  # noqa: S608 - as above
