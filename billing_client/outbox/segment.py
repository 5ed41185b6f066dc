"""One file of usage. Its owner appends to it; a lock says that the owner lives.

A record is one write of a newline, a JSON object and a newline. The first newline ends whatever a
full disk left of a write that it cut, so that no record is ever glued to a torn one.

The outcome of a record is kept in place: the first byte of its line turns from "{" into "+"
(delivered) or "-" (moved to another file). One byte needs no space on a full disk and is never
torn, and it can be anywhere in the file, so a record that waits holds no other back. A mark that
is lost in a power failure means a replay.

The lock is a flock on the only descriptor, which is closed when the segment is no longer used:
a number that is closed too early may be given to another file. A forked child inherits the lock,
and would keep it alive: it closes its copy first of all, and never releases it.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import NamedTuple

try:
    import fcntl
except ImportError:
    HAS_LOCKS = False  # on Windows, where the rest of the client works
else:
    HAS_LOCKS = True

HEADER = b'{"billing_outbox":1}\n'
START = len(HEADER)
PENDING, DELIVERED, MOVED = b"{", b"+", b"-"
TIME = "%Y%m%dT%H%M%SZ"
# A segment that has more bytes, or is older, is written to no longer.
SEGMENT_BYTES = 8 * 1024**2
SEGMENT_SECONDS = 24 * 3600.0
# Of one reading, and more than the longest record.
MOST_BYTES = 512 * 1024
# Of a line that is longer, the bytes that are kept of its beginning, and of its end.
SHOWN_BYTES = 512
_SETTLED = {b"", DELIVERED, MOVED}
_FIRST, _LAST, _USAGE = b'{"at":', b"}}", b'"usage":'


class Row(NamedTuple):
    """A line of a segment, without its end, and the place where it begins.

    at        when it was enqueued, in seconds since 1970
    stamped   whether its time was given by enqueue and not by the caller
    record    the bytes that are sent; empty for a line that is damaged
    left_out  how many bytes more it has in the file, if it is too long to be a record
    """

    line: bytes
    place: int
    at: float = 0.0
    stamped: bool = False
    record: bytes = b""
    request_id: str = "?"
    customer_id: int = 0
    left_out: int = 0

    @property
    def end(self) -> int:
        """The place after it."""
        return self.place + len(self.line) + self.left_out + 1

    @classmethod
    def read(cls, line: bytes, place: int) -> Row:
        """The row of a line, whatever its outcome is."""
        try:
            content = json.loads((PENDING + line[1:]).decode())
            at, stamped, usage = content["at"], content["stamped"], content["usage"]
            name, customer_id = str(usage["request_id"]), int(usage["customer_id"])
            # The bytes as they were enqueued: the same are sent every time.
            record = line[line.index(_USAGE) + len(_USAGE) : -1]
            return cls(line, place, float(at), stamped is True, record, name, customer_id)
        except (KeyError, TypeError, ValueError, RecursionError):
            return cls(line, place)


def line_of(record: bytes, *, stamped: bool, at: float) -> bytes:
    """The line of a record that was enqueued ``at`` seconds since 1970."""
    flag = b"true" if stamped else b"false"
    return b'\n{"at":%.3f,"stamped":%b,"usage":%b}\n' % (at, flag, record)


def rows(number: int, outcome: bytes, place: int = START) -> Iterator[Row]:
    """The records from this place on that have this outcome, also while the file's owner lives.

    PENDING means each line without another outcome, even a damaged one. Raises OSError.
    """
    while True:
        *lines, rest = os.pread(number, MOST_BYTES, place).split(b"\n")
        for line in lines:
            if _fits(line, outcome):
                yield Row.read(line, place)
            place += len(line) + 1
        if lines:
            continue
        # What follows the last newline is not written to its end, and perhaps never will be.
        if len(rest) < MOST_BYTES or (row := _too_long(number, rest, place)) is None:
            return
        if _fits(row.line, outcome, too_long=True):
            yield row
        place = row.end


def _too_long(number: int, beginning: bytes, place: int) -> Row | None:
    """The damaged row of a line that is longer than any record; None if it has no end.

    Such as zeros, where power was lost before the data had reached the disk.
    """
    end = place + len(beginning)
    while (found := (data := os.pread(number, MOST_BYTES, end)).find(b"\n")) < 0:
        if not data:
            return None
        end += len(data)
    end += found
    # Either may say whose usage it was.
    tail = os.pread(number, SHOWN_BYTES, end - SHOWN_BYTES)
    line = beginning[:SHOWN_BYTES] + b" ... " + tail
    return Row(line, place, left_out=end - place - len(line))


def _fits(line: bytes, outcome: bytes, *, too_long: bool = False) -> bool:
    """Whether it has this outcome; for PENDING none, and no full disk cut it.

    The caller of a record that was cut was told. Such a line is not longer than a record.
    """
    if outcome != PENDING:
        return line.startswith(outcome)
    if line[:1] in _SETTLED:
        return False
    return too_long or line.endswith(_LAST) or not _FIRST.startswith(line[: len(_FIRST)])


def rows_of(path: Path, outcome: bytes) -> Iterator[Row]:
    """The records of a file that have this outcome. Raises OSError."""
    with path.open("rb") as file:
        yield from rows(file.fileno(), outcome)


class Segment:
    """An open file of usage, locked by this process.

    ``pending`` records wait in it, and ``written`` bytes were appended. They are counted beside the
    file, and a KeyboardInterrupt may come between the two: nothing is ever removed because of
    them. All before ``position`` was looked at.
    """

    number = -1

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self.began = monotonic()
        self.pending = self.written = 0
        self.position = START

    @classmethod
    def create(cls, directory: Path, kind: str) -> Segment:
        """A new file "usage-…" or "waiting-…", for this user alone. Raises OSError."""
        # Nothing that imports anything: a finalizer may come here at the interpreter's end.
        stamp = f"{time.strftime(TIME, time.gmtime())}-{os.getpid()}-{os.urandom(6).hex()}"
        path = directory / f"{kind}-{stamp}.log"
        segment = cls._locked(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        if segment is None:  # another process took it for the file of a process that ended
            return cls.create(directory, kind)
        try:
            # The number is read and used in one step: a signal handler may fork before it, and the
            # child then goes on here with its copy closed.
            check_whole(os.write(segment.number, HEADER), len(HEADER))
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return segment

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
        """The file of a process that ended; None if its owner lives, or another was faster.

        Raises ValueError if it is not an outbox, and OSError if it cannot be opened now.
        """
        try:
            segment = cls._locked(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        if segment is None:
            return None
        head = os.pread(segment.number, START, 0)
        if head == HEADER:
            return segment
        if not HEADER.startswith(head):
            raise ValueError("it is damaged, or not an outbox of this version of the library")
        path.unlink()  # its owner died before it wrote anything
        return None

    @classmethod
    def _locked(cls, path: Path, flags: int) -> Segment | None:
        segment = cls(path, os.open(path, flags, 0o600))
        with suppress(FileNotFoundError):
            if lock(segment.number) and os.path.samestat(path.stat(), os.fstat(segment.number)):
                return segment
        return None

    def append(self, line: bytes, *, fsync: bool = False) -> None:
        """Write a record; it outlives this process when this returns.

        Raises OSError. A line that was written is then marked, so that it is not sent; that may
        be too late or fail too, so only the same record may be written in its place.
        """
        before = os.lseek(self.number, 0, os.SEEK_CUR)
        size, taken = len(line), 0
        try:
            taken = os.write(self.number, line)
            check_whole(taken, size)
            if fsync:
                os.fsync(self.number)
        except OSError:
            # Only the newline is missing: the next record begins with one.
            if taken >= size - 1 and not self._take_back(line, before):
                self.pending += 1  # it was sent meanwhile and counted off, or will be
            raise
        # Nothing is called while a count is read and written: another thread counts too.
        self.pending += 1
        self.written += size

    def mark(self, row: Row, outcome: bytes) -> None:
        """Keep the outcome of a record. Raises OSError."""
        has_waited = os.pread(self.number, 1, row.place) not in _SETTLED
        os.pwrite(self.number, outcome, row.place)
        if has_waited:  # and was not taken back while it was sent
            self.pending -= 1

    def _take_back(self, line: bytes, before: int) -> bool:
        """Mark a line that was written after this place; False if it is sent nevertheless."""
        with suppress(OSError):
            # Other threads may have written before and behind it.
            size = os.fstat(self.number).st_size - before
            written = os.pread(self.number, size, before)
            place = written.find(line[:-1])
            if place >= 0:
                os.pwrite(self.number, MOVED, before + place + 1)
                return True
        return False

    def is_complete(self) -> bool:
        """Whether it is so large, or so old, that nothing more is written to it."""
        return self.written > SEGMENT_BYTES or monotonic() - self.began > SEGMENT_SECONDS

    def is_settled(self) -> bool:
        """Whether every record has its outcome on disk, read from the start. Raises OSError."""
        return next(rows(self.number, PENDING), None) is None

    def put_aside(self, kept: Path) -> None:
        """Keep it under the time of its last mark, or remove it if nothing of it was delivered."""
        if next(rows(self.number, DELIVERED), None) is None:
            self.path.unlink(missing_ok=True)
        else:
            when = time.strftime(TIME, time.gmtime(os.fstat(self.number).st_mtime))
            self.path.rename(kept / f"{when}-{self.path.name.split('-', 2)[2]}")

    def release(self) -> None:
        """Let the lock go, at once; what still uses the file may end. Only its owner may do it."""
        with suppress(OSError):
            fcntl.flock(self.number, fcntl.LOCK_UN)

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Close it at once; ``close`` is kept for the interpreter's end."""
        number, self.number = self.number, -1
        if number >= 0:
            close(number)

    __del__ = close


def check_whole(taken: int, size: int) -> None:
    """Raise OSError if a write took fewer bytes, as on a full disk."""
    if taken < size:
        raise OSError(errno.ENOSPC, "the disk took only a part of it")


def lock(number: int) -> bool:
    """Lock a file without waiting; False if another process has it."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
