"""One SQLite file of usage that waits, and nothing about who sends it or when.

The lock that SQLite takes on the file says who owns it: the kernel drops it when the process
dies, so there is no lease and no clock. It is a POSIX lock, which any plain open and close of the
file by its owner would drop: nothing here, and nothing else in this process, may open the file
but through sqlite3.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote

from billing_client.outbox.names import new_name
from billing_client.outbox.schema import (
    ADD,
    DELETE,
    NUMBERS,
    OLDEST,
    REJECT,
    SCHEMA,
    SUMMARY,
    TAKE,
    WAIT,
    Row,
    Verdict,
    fitness,
    ranges,
)

_TRIES = 5
# Somebody who takes a new file for one left behind has it for a moment; then another is made.
_CREATE_PATIENCE_SECONDS = 0.2
# A commit appends some 3 KiB to the write-ahead log: 12 MiB, and 120 MiB at the worst.
CHECKPOINT_CHANGES = 4_000
MOST_CHANGES = 40_000


class Busy(Exception):
    """The file belongs to a process that lives."""


class Gone(Exception):
    """Somebody else drained the file and removed it."""


class Unfit(Exception):
    """The file is damaged, or not an outbox; it is left as it is."""


class Closed(Exception):
    """This store was closed; what it held is on disk for whoever adopts it."""


class Store:
    """An open outbox file, locked by this process.

    ``usage``, ``waiting`` (for a customer or a clock) and ``rejected`` say how many records it
    holds, ``size`` how many bytes of JSON the first two do. They are counted beside the file, and
    what a signal handler raises may come between the two: nothing is ever removed by them.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.usage, self.waiting, self.rejected, self.size = _counted(connection)
        self._connection: sqlite3.Connection | None = connection
        # Never the number of a row that was there: what is in flight is known by it.
        self._numbers = count(connection.execute("SELECT n FROM next_number").fetchone()[0])
        self._changes = 0
        # Held around every statement, by whoever is alone here already: a signal handler or a
        # finalizer sees by it that it interrupted its own thread in the middle of one.
        self._at_work = Lock()

    @classmethod
    def create(cls, directory: Path, *, fsync: bool = False) -> Store:
        """A new file under a name of its own, readable for this user alone.

        Raises OSError or sqlite3.Error if the directory takes none.
        """
        for _ in range(_TRIES):
            path = directory / new_name()
            # Not a danger to the lock, which nobody holds yet.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            store = cls._of_new_file(path, fsync=fsync)
            if store is not None:
                return store
        raise OSError(f"Files made in {directory} vanish at once; look for what removes them.")

    @classmethod
    def _of_new_file(cls, path: Path, *, fsync: bool) -> Store | None:
        """None if somebody took it for one left behind, before it was locked."""
        connection = None
        try:
            connection = _connected(path, timeout=_CREATE_PATIENCE_SECONDS)
            _set_up(connection, fsync=fsync)
            if path.exists():
                return cls(path, connection)
        except sqlite3.Error as error:
            if isinstance(_why_not(path, error), Unfit):
                _discard(path)
                _close(connection, path)
                raise
        _close(connection, path)
        return None

    @classmethod
    def adopt(cls, path: Path) -> Store:
        """The file of a process that died. Raises Busy, Gone or Unfit."""
        connection = None
        try:
            connection = _connected(path, timeout=0)
            _lock(connection, path)
            return cls(path, connection)
        except sqlite3.Error as error:
            _close(connection, path)
            raise _why_not(path, error) from error
        except (Gone, Unfit):
            _close(connection, path)
            raise

    @property
    def is_open(self) -> bool:
        """Whether nobody closed it yet."""
        return self._connection is not None

    @property
    def pending(self) -> int:
        """Records that the service has not judged for good."""
        return self.usage + self.waiting

    @property
    def in_use(self) -> bool:
        """Whether the caller interrupted its own thread at work here; then keep off."""
        return self._at_work.locked()

    def append(self, request_id: str, record: bytes, *, stamped: bool) -> None:
        """Write a record; it outlives this process when this returns. Raises sqlite3.Error."""
        values = next(self._numbers), request_id, record, stamped, time.time()
        with self._at_work:
            self._open().execute(ADD, values)
            self.usage += 1
            self.size += len(record)
        self._changes += 1
        if self._changes >= MOST_CHANGES:
            self.checkpoint()

    def take(self, lane: str, *, after: int, limit: int, size: int) -> list[Row]:
        """The next records above a number, at most so many and so many bytes, but at least one."""
        rows: list[Row] = []
        total = 0
        for seq, name, record, stamped, hours in self.execute(TAKE[lane], (after, limit)):
            row = Row(seq, name, record, stamped, hours, lane)
            total += len(row.record)
            if rows and total > size:
                break
            rows.append(row)
        return rows

    def settle(self, verdicts: Sequence[Verdict]) -> None:
        """Do to each record what its verdict says, to all or none. Raises sqlite3.Error."""
        with self._at_work:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                _apply(connection, verdicts)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # some errors rolled back already
                    connection.execute("ROLLBACK")
                raise
            self._count(verdicts)
        self._changes += len(verdicts) // 8 + 1

    def recount(self) -> None:
        """Look again what is in the file."""
        with self._at_work:
            self.usage, self.waiting, self.rejected, self.size = _counted(self._open())

    def oldest(self) -> float | None:
        """When the oldest record was enqueued, in seconds since 1970."""
        oldest: float | None = self.execute(OLDEST)[0][0]
        return oldest

    def execute(self, sql: str, values: Iterable[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a statement."""
        with self._at_work:
            return self._open().execute(sql, tuple(values)).fetchall()

    def tidy(self) -> None:
        """Write the log back into the file where it has grown; the drainer's chore."""
        if self._changes >= CHECKPOINT_CHANGES:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Write the log back, and begin it anew.

        The log keeps its length: deletes then need no new space, also on a disk that is full.
        """
        self._changes = 0
        with suppress(sqlite3.OperationalError):  # a full disk: the log stays, and grows on
            self.execute("PRAGMA wal_checkpoint(RESTART)")

    def close(self, *, delivered: Collection[int] = ()) -> None:
        """Give the file up, and remove it if nothing is in it but what was delivered.

        ``delivered`` are the numbers of records that a full disk did not let anybody delete.
        """
        with self._at_work:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            try:
                if _has_only(connection, delivered):
                    # Before the lock goes, or another process could open it in between.
                    _discard(self.path)
            finally:
                _close(connection, self.path)

    def abandon(self) -> sqlite3.Connection | None:
        """The connection, never to be closed: it is a parent's, copied into this process."""
        connection, self._connection = self._connection, None
        return connection

    def _count(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.row.table == "usage":
                self.usage -= 1
            else:
                self.waiting -= 1
            if verdict.fate == "rejected":
                self.rejected += 1
            elif verdict.fate != "delivered":
                self.waiting += 1
                continue
            self.size -= len(verdict.row.record)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Closed
        return self._connection


def _apply(connection: sqlite3.Connection, verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        row = verdict.row
        if verdict.fate == "rejected":
            values = time.time(), verdict.status, verdict.code, verdict.problem, row.seq
            connection.execute(REJECT[row.table], values)
        elif verdict.fate != "delivered":
            connection.execute(WAIT[row.table], (verdict.fate, row.hours, row.seq))
    for table, statement in DELETE.items():
        moved = [v.row.seq for v in verdicts if v.row.table == table and v.leaves_table()]
        connection.executemany(statement, ranges(moved))


def _has_only(connection: sqlite3.Connection, delivered: Collection[int]) -> bool:
    try:
        return all(seq in delivered for (seq,) in connection.execute(NUMBERS))
    except sqlite3.Error:  # a damaged file, which is for somebody to look at
        return False


def _close(connection: sqlite3.Connection | None, path: Path) -> None:
    if connection is not None:
        connection.close()
    if not path.exists():
        # SQLite leaves the log of a file that it does not find any more.
        _discard(Path(f"{path}-wal"))


def _connected(path: Path, *, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )


def _set_up(connection: sqlite3.Connection, *, fsync: bool) -> None:
    connection.execute("PRAGMA page_size = 2048")  # commits are small, and pages written whole
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
    connection.execute("BEGIN EXCLUSIVE")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute("COMMIT")


def _lock(connection: sqlite3.Connection, path: Path) -> None:
    """Make the file of a dead process ours. Raises sqlite3.Error if it is not dead."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("COMMIT")
    if not path.exists():
        raise Gone  # removed between being opened and being locked
    try:
        begun = fitness(connection)
    except ValueError as error:
        raise Unfit(str(error)) from error
    if not begun:
        _discard(path)
        raise Gone


def _why_not(path: Path, error: sqlite3.Error) -> Exception:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Busy()
    if not path.exists():
        return Gone()
    return Unfit(f"it cannot be read ({error})")


def _counted(connection: sqlite3.Connection) -> tuple[int, int, int, int]:
    counts: tuple[int, int, int, int] = connection.execute(SUMMARY).fetchone()
    return counts


def _discard(path: Path) -> None:
    path.unlink(missing_ok=True)
