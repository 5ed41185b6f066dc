"""The tables of an outbox file, and every statement about them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

APPLICATION_ID = 0x42696C6C  # "Bill": tells these files from other people's
VERSION = 1

Fate = Literal["delivered", "rejected", "unknown_customer", "in_the_future"]

_RECORD = "seq INTEGER PRIMARY KEY, request_id TEXT, record BLOB, stamped INTEGER, enqueued_at REAL"

SCHEMA = (
    f"CREATE TABLE usage ({_RECORD})",
    f"CREATE TABLE waiting ({_RECORD}, reason TEXT, hours INTEGER)",
    f"CREATE TABLE rejected ({_RECORD}, rejected_at REAL, status INTEGER, code TEXT, problem TEXT)",
    """
    CREATE VIEW next_number AS SELECT 1 + max(
        (SELECT coalesce(max(seq), 0) FROM usage), (SELECT coalesce(max(seq), 0) FROM waiting),
        (SELECT coalesce(max(seq), 0) FROM rejected)) AS n
    """,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)
SUMMARY = """
    SELECT (SELECT count(*) FROM usage), (SELECT count(*) FROM waiting),
        (SELECT count(*) FROM rejected),
        (SELECT coalesce(sum(length(record)), 0)
            FROM (SELECT record FROM usage UNION ALL SELECT record FROM waiting))
"""
# The first of each table is its oldest; to look at all of a long one takes seconds.
OLDEST = """
    SELECT min(enqueued_at) FROM (
        SELECT enqueued_at FROM (SELECT enqueued_at FROM usage ORDER BY seq LIMIT 1)
        UNION ALL SELECT enqueued_at FROM (SELECT enqueued_at FROM waiting ORDER BY seq LIMIT 1))
"""
NUMBERS = (
    "SELECT seq FROM usage UNION ALL SELECT seq FROM waiting UNION ALL SELECT seq FROM rejected"
)
ADD = "INSERT INTO usage VALUES (?, ?, ?, ?, ?)"
TAKE = {
    "usage": "SELECT seq, request_id, record, stamped, 0 FROM usage"
    " WHERE seq > ? ORDER BY seq LIMIT ?",
    "unknown_customer": "SELECT seq, request_id, record, stamped, hours FROM waiting"
    " WHERE seq > ? AND reason = 'unknown_customer' ORDER BY seq LIMIT ?",
    "in_the_future": "SELECT seq, request_id, record, stamped, hours FROM waiting"
    " WHERE seq > ? AND reason = 'in_the_future' ORDER BY seq LIMIT ?",
}
_REJECT = (
    "INSERT OR REPLACE INTO rejected"
    " SELECT seq, request_id, record, stamped, enqueued_at, ?, ?, ?, ? FROM"
)
_WAIT = (
    "INSERT OR REPLACE INTO waiting SELECT seq, request_id, record, stamped, enqueued_at, ?, ? FROM"
)
REJECT = {
    "usage": f"{_REJECT} usage WHERE seq = ?",
    "waiting": f"{_REJECT} waiting WHERE seq = ?",
}
WAIT = {"usage": f"{_WAIT} usage WHERE seq = ?", "waiting": f"{_WAIT} waiting WHERE seq = ?"}
DELETE = {
    "usage": "DELETE FROM usage WHERE seq BETWEEN ? AND ?",
    "waiting": "DELETE FROM waiting WHERE seq BETWEEN ? AND ?",
}


class Row(NamedTuple):
    """A record as it waits; ``stamped`` if its time was given by enqueue and not by the caller.

    ``lane`` is where it was taken from: "usage", or the reason why it waits.
    ``hours`` is how often it was sent again, an hour apart, because its customer was unknown.
    """

    seq: int
    request_id: str
    record: bytes
    stamped: int
    hours: int
    lane: str = "usage"

    @property
    def table(self) -> str:
        """The table it is in."""
        return "usage" if self.lane == "usage" else "waiting"


class Verdict(NamedTuple):
    """What becomes of a record, and for a rejected one the problem."""

    row: Row
    fate: Fate
    status: int | None = None
    code: str | None = None
    problem: str = ""

    def leaves_table(self) -> bool:
        """Whether its place in the table it was taken from is free after this."""
        return self.fate in {"delivered", "rejected"} or self.row.table == "usage"


def fitness(connection: sqlite3.Connection) -> bool:
    """Whether the file is an outbox; False if nothing was ever written into it.

    Raises ValueError that says what it is instead.
    """
    (identity,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if identity == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchall():
        return False
    if identity != APPLICATION_ID:
        raise ValueError("it is not an outbox of this library")
    if version > VERSION:
        raise ValueError(
            f"it has version {version}, and this library knows {VERSION}: use a newer one"
        )
    return True


def ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The runs of consecutive numbers, by their first and last."""
    first = last = None
    for number in sorted(numbers):
        if last is None or first is None or number != last + 1:
            if first is not None and last is not None:
                yield first, last
            first = number
        last = number
    if first is not None and last is not None:
        yield first, last
