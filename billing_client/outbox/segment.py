"""One file of usage. Its owner appends to it; a lock says that the owner lives.

A record is one write of a newline, a JSON object and a newline. The first newline ends whatever a
full disk left of a write that it cut, so that no record is ever glued to a torn one.

The outcome of a record is kept in place: the first byte of its line turns from "{" into "+"
(delivered) or "-" (moved to another file). One byte needs no space on a full disk and is never
torn, and it can be anywhere in the file, so a record that waits holds no other back. A mark that
is lost in a power failure means a replay.

The lock is a flock on the only descriptor. A forked child inherits it, and would keep it alive: it
closes its copy first of all, and never unlocks.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import NamedTuple

from billing_client.receipts import Receipt

try:
    import fcntl
except ImportError:
    HAS_LOCKS = False  # on Windows, where the rest of the client works
else:
    HAS_LOCKS = True

HEADER = b'{"billing_outbox":1}\n'
PENDING, DELIVERED, MOVED = b"{", b"+", b"-"
# Of one reading, and more than the longest record.
MOST_BYTES = 512 * 1024
TIME = "%Y%m%dT%H%M%SZ"
_START, _END, _USAGE = b'{"at":', b"}}", b'"usage":'


class Closed(Exception):
    """The file was given up, at the end or at a fork; its records are on disk."""


class Descriptor:
    """A descriptor that is closed when its last user lets it go, whoever closes the segment.

    A number that is closed too early may be given to another file, which would be written to.
    """

    number = -1

    def __init__(self, path: Path, flags: int) -> None:
        self.number = os.open(path, flags, 0o600)

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Close it at once; ``close`` is kept for the interpreter's end."""
        number, self.number = self.number, -1
        if number >= 0:
            close(number)

    __del__ = close


class Row(NamedTuple):
    """A record as it waits in a segment.

    at       when it was enqueued, in seconds since 1970
    stamped  whether its time was given by enqueue and not by the caller
    record   the bytes that are sent; empty for a line that is damaged
    """

    segment: Segment
    offset: int
    line: bytes
    at: float = 0.0
    stamped: bool = False
    record: bytes = b""
    request_id: str = "?"
    customer_id: int = 0


def line_of(record: bytes, *, stamped: bool, at: float) -> bytes:
    """The line of a record that was enqueued ``at`` seconds since 1970."""
    flag = b"true" if stamped else b"false"
    return b'\n{"at":%.3f,"stamped":%b,"usage":%b}\n' % (at, flag, record)


def parsed(line: bytes) -> tuple[float, bool, bytes, str, int]:
    """Time, stamped, record, id and customer of a line, marked or not. Raises ValueError."""
    try:
        content = json.loads(PENDING + line[1:])
        usage = content["usage"]
        # The bytes as they were enqueued: the same are sent every time.
        record = line[line.index(_USAGE) + len(_USAGE) : -1]
        name, customer = str(usage["request_id"]), int(usage["customer_id"])
        return float(content["at"]), content["stamped"] is True, record, name, customer
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("it is not a record of an outbox") from error


def customer_of(line: bytes) -> int:
    """The customer of a line, 0 if it cannot be read; ten times faster than parsed()."""
    found = line.partition(b'"customer_id":')[2].partition(b",")[0]
    return int(found) if found.isdigit() else 0


def lines(path: Path, outcome: bytes) -> Iterator[bytes]:
    """The lines of a file that have this outcome, also while its owner lives. Raises OSError."""
    return (line for line in path.read_bytes().split(b"\n")[1:-1] if line.startswith(outcome))


class Segment:
    """An open file of usage, locked by this process.

    ``kind`` is "usage", "waiting" (for customers to be created), "clock" (for the service's clock),
    "adopted" (from a process that ended) or "kept" (delivered, and not open). ``pending`` records
    of ``size`` bytes wait in it, and ``written`` bytes were appended. They are counted beside the
    file, and a KeyboardInterrupt may come between the two: nothing is ever removed because of
    them. ``held`` are the records whose outcome is known but not kept yet, by their places.
    """

    def __init__(self, path: Path, kind: str, file: Descriptor | None = None) -> None:
        self.path = path
        self.kind = kind
        self.began = time.monotonic()
        self.pending = self.size = self.written = 0
        self.held: dict[int, tuple[Row, Receipt]] = {}
        self.file = file
        self._position = len(HEADER)
        self._delivered = False

    @classmethod
    def create(cls, directory: Path, kind: str) -> Segment:
        """A new file, readable for this user alone. Raises OSError."""
        # Nothing that imports anything: a finalizer may come here at the interpreter's end.
        stamp = f"{time.strftime(TIME, time.gmtime())}-{os.getpid()}-{os.urandom(6).hex()}"
        path = directory / f"{'usage' if kind == 'usage' else 'waiting'}-{stamp}.log"
        # Not under its name before it is locked: another process would take it for an orphan.
        new = directory / f".new-{stamp}"
        file = Descriptor(new, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        try:
            lock(file.number)
            write(file, HEADER)
            new.rename(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        return cls(path, kind, file)

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
        """The file of a process that ended; None if its owner lives, or another was faster.

        Raises ValueError if it is not an outbox, and OSError if it cannot be opened now.
        """
        try:
            file = Descriptor(path, os.O_RDWR)
            if not lock(file.number) or not os.path.samestat(path.stat(), os.fstat(file.number)):
                return None
        except FileNotFoundError:
            return None
        data = path.read_bytes()
        if HEADER.startswith(data):
            path.unlink()  # its owner died before it wrote anything
            return None
        if not data.startswith(HEADER) or max(map(len, data.split(b"\n"))) > MOST_BYTES:
            raise ValueError("it is damaged, or not an outbox of this version of the library")
        segment = cls(path, "adopted", file)
        segment.pending = data.count(b"\n" + PENDING)
        # A damaged tail is kept like delivered usage, in case someone can read it.
        segment._delivered = b"\n" + DELIVERED in data or not data.endswith(b"\n")
        return segment

    def append(self, line: bytes, *, fsync: bool = False) -> None:
        """Write a record; it outlives this process when this returns. Raises OSError or Closed."""
        file = self._open()
        try:
            write(file, line)
            if fsync:
                os.fsync(file.number)
        except OSError:
            if file.number < 0:  # a signal handler forked, and this is the child
                raise Closed from None
            raise
        size = len(line)
        # No call between a reading and its writing: the thread counts at the same time.
        self.pending += 1
        self.size += size
        self.written += size

    def take(
        self,
        limit: int,
        customers: Container[int] | None = None,
        chosen: Callable[[Row], bool] = lambda _: True,
    ) -> list[Row]:
        """The next records that have no outcome, at most so many; of these customers and chosen.

        Raises Closed or OSError.
        """
        file = self._open()
        rows: list[Row] = []
        # Kept beside the object's own: another thread may be looking too.
        offset = self._position
        while not rows and (data := os.pread(file.number, MOST_BYTES, offset)):
            *whole, _ = data.split(b"\n")
            if not whole:
                break  # a tail that its writer never finished
            for line in whole:
                is_other = (
                    customers is not None
                    and line.startswith(PENDING)
                    and customer_of(line) not in customers
                )
                row = None if is_other else self._row(line, offset)
                if row is None and not is_other and offset == self._position:
                    self._position = offset + len(line) + 1
                offset += len(line) + 1
                if row is not None and chosen(row):
                    rows.append(row)
                    if len(rows) == limit:
                        break
        return rows

    def mark(self, row: Row, outcome: bytes) -> None:
        """Keep the outcome of a record. Raises Closed or OSError."""
        file = self._open()
        os.pwrite(file.number, outcome, row.offset)
        self.held.pop(row.offset, None)
        self._delivered = self._delivered or outcome == DELIVERED
        size = len(row.line) + 2
        self.pending -= 1
        self.size -= size

    def is_settled(self) -> bool:
        """Whether every record has its outcome on disk. Raises Closed or OSError."""
        return not (self.held or self.take(1))

    def close(self, kept: Path) -> None:
        """Give the file up, and the lock as soon as the last call here ends.

        A settled one is put aside under the time of its last mark, or removed if nothing of it
        was delivered. Raises Closed or OSError.
        """
        try:
            if self.is_settled() and self._delivered:
                when = time.strftime(TIME, time.gmtime(self.path.stat().st_mtime))
                self.path.rename(kept / f"{when}-{self.path.name.split('-', 2)[2]}")
            elif self.is_settled():
                self.path.unlink(missing_ok=True)
        finally:
            self.file = None

    def _open(self) -> Descriptor:
        file = self.file
        if file is None:
            raise Closed
        return file

    def _row(self, line: bytes, offset: int) -> Row | None:
        if line[:1] in {b"", DELIVERED, MOVED} or offset in self.held:
            return None
        try:
            return Row(self, offset, line, *parsed(line))
        except ValueError:
            # A line that a full disk cut is not one that was enqueued: the caller was told.
            is_cut = line.startswith(_START) and not line.endswith(_END)
            return None if is_cut else Row(self, offset, line)


def lock(number: int) -> bool:
    """Lock a file without waiting; False if another process has it."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write(file: Descriptor, data: bytes) -> None:
    """Write all of it. Raises OSError."""
    # The number is read and used in one step: a signal handler may fork before it, and the child
    # then goes on here with its copy closed.
    if os.write(file.number, data) < len(data):
        raise OSError(errno.ENOSPC, "the disk took only a part of it")
