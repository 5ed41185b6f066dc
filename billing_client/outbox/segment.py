"""One file of usage. Its owner appends to it; a lock says that the owner lives.

A record is one write of a newline, a JSON object and a newline to an O_APPEND descriptor; the
kernel keeps the writes of several threads apart. The first newline ends whatever a full disk left
of a write that it cut, so that no record is ever glued to a torn one.

The outcome of a record is kept in place: the first byte of its line turns from "{" into "+"
(delivered) or "-" (moved to another file). One byte needs no space on a full disk and is never
torn, and it can be anywhere in the file, so a record that waits holds no other back. A mark that
is lost in a power failure means a replay.

The lock is a flock on the descriptor that reads and marks. A forked child inherits it, and would
keep it alive: it closes its copy first of all, and never unlocks.
"""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:
    HAS_LOCKS = False  # on Windows, where the rest of the client works
else:
    HAS_LOCKS = True

HEADER = b'{"billing_outbox":1}\n'
PENDING, DELIVERED, MOVED = b"{", b"+", b"-"
MOST_BYTES = 512 * 1024
TIME = "%Y%m%dT%H%M%SZ"
_START, _END, _USAGE = b'{"at":', b"}}", b'"usage":'
_TRIES = 5


class Closed(Exception):
    """The file was given up, at the end or at a fork; its records are on disk."""


class Unfit(Exception):
    """The file is not an outbox; it is left as it is."""


class Descriptor:
    """A descriptor that is closed when its last user lets it go, whoever closes the segment.

    A number that is closed too early may be given to another file, which would be written to.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close=os.close) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - kept for the interpreter's end
        number, self.number = self.number, -1
        if number >= 0:
            close(number)


class Row(NamedTuple):
    """A record as it waits in a segment.

    at       when it was enqueued, in seconds since 1970
    stamped  whether its time was given by enqueue and not by the caller
    record   the bytes that are sent; empty for a line that is damaged
    queue    the queue of waiting records that it was taken from, None if from a segment
    """

    segment: Segment
    offset: int
    line: bytes
    at: float = 0.0
    stamped: bool = False
    record: bytes = b""
    request_id: str = "?"
    customer_id: int = 0
    queue: int | None = None


def line_of(record: bytes, *, stamped: bool, at: float | None = None) -> bytes:
    """The line of a record that is enqueued now, or was ``at`` seconds since 1970."""
    at = time.time() if at is None else at
    flag = b"true" if stamped else b"false"
    return b'\n{"at":%.3f,"stamped":%b,"usage":%b}\n' % (at, flag, record)


def parsed(line: bytes) -> tuple[float, bool, bytes, str, int]:
    """Time, stamped, record, id and customer of a line, marked or not. Raises ValueError."""
    try:
        content = json.loads(PENDING + line[1:])
        usage = content["usage"]
        # The bytes as they were enqueued: the same are sent every time.
        record = line[line.index(_USAGE) + len(_USAGE) : -1]
        return (
            float(content["at"]),
            content["stamped"] is True,
            record,
            str(usage["request_id"]),
            int(usage["customer_id"]),
        )
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("it is not a record of an outbox") from error


class Segment:
    """An open file of usage, locked by this process.

    ``pending`` records wait in it, of ``size`` bytes, and ``written`` bytes were appended. They are
    counted beside the file, and a KeyboardInterrupt may come between the two: nothing is ever
    removed because of them. ``writers`` are appending now: the file must keep its name.
    """

    def __init__(self, path: Path, file: Descriptor | None, out: Descriptor | None = None) -> None:
        self.path = path
        self.adopted = out is None
        self.waits = not self.adopted and path.name.startswith("waiting-")
        self.began = time.monotonic()
        self.pending = self.size = self.written = self.writers = 0
        self._delivered = False
        self._file, self._out = file, out
        self._position = len(HEADER)
        self._unmarked: set[int] = set()

    @classmethod
    def create(cls, directory: Path, kind: str) -> Segment:
        """A new file, readable for this user alone. Raises OSError."""
        for _ in range(_TRIES):
            # Nothing that imports anything: a finalizer may come here at the interpreter's end.
            name = f"{kind}-{time.strftime(TIME, time.gmtime())}-{os.getpid()}"
            path = directory / f"{name}-{os.urandom(6).hex()}.log"
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
            file = Descriptor(os.open(path, flags, 0o600))
            try:
                # Another process may take it for the file of one that ended; retry.
                if _is_ours(path, file.number):
                    out = Descriptor(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
                    write(out.number, HEADER)
                    return cls(path, file, out)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        raise OSError(f"Files made in {directory} vanish at once; look for what removes them.")

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
        """The file of a process that ended; None if its owner lives, or another was faster.

        Raises Unfit, or OSError if it cannot be opened now.
        """
        try:
            file = Descriptor(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            return None
        if not _is_ours(path, file.number):
            return None
        data = path.read_bytes()
        if HEADER.startswith(data):
            path.unlink()  # its owner died before it wrote anything
            return None
        if not data.startswith(HEADER) or max(map(len, data.split(b"\n"))) > MOST_BYTES:
            raise Unfit("it is damaged, or not an outbox of this version of the library")
        segment = cls(path, file)
        segment.pending = data.count(b"\n" + PENDING)
        tail = data[data.rfind(b"\n") + 1 :]
        # A damaged tail is kept like delivered usage, in case someone can read it.
        segment._delivered = b"\n" + DELIVERED in data or not tail.startswith(_START[: len(tail)])
        return segment

    def append(self, line: bytes, *, fsync: bool = False) -> None:
        """Write a record; it outlives this process when this returns. Raises OSError or Closed."""
        out = self._out
        self.writers += 1
        try:
            if out is None:
                raise Closed
            # The number is read and used in one step: a signal handler may fork before it, and
            # the child then goes on here with its copy closed.
            if os.write(out.number, line) < len(line):
                raise OSError(errno.ENOSPC, "the disk took only a part of it")  # noqa: TRY301 - write() inlined
            if fsync:
                os.fsync(out.number)
        except OSError:
            if out is not None and out.number < 0:
                raise Closed from None
            raise
        finally:
            self.writers -= 1
        self.pending += 1
        self.size += len(line)
        self.written += len(line)

    def length(self) -> int:
        """The bytes of the file."""
        return os.fstat(self._open().number).st_size

    def take(self, limit: int) -> list[Row]:
        """The next records that have no outcome, at most so many and so many bytes."""
        file = self._open()
        rows: list[Row] = []
        # Kept beside the object's own: another thread may be looking too.
        offset = self._position
        while not rows and (data := os.pread(file.number, MOST_BYTES, offset)):
            end = data.rfind(b"\n") + 1
            if end == 0:
                break  # a tail that its writer never finished
            for line in data[: end - 1].split(b"\n"):
                row = self._row(line, offset)
                if row is not None:
                    rows.append(row)
                    if len(rows) == limit:
                        break
                offset += len(line) + 1
                if not rows:
                    self._position = offset
        return rows

    def row_at(self, offset: int) -> Row | None:
        """The record at a place, None if it has its outcome."""
        line, newline, _ = os.pread(self._open().number, MOST_BYTES, offset).partition(b"\n")
        return self._row(line, offset) if newline else None

    def skip(self, row: Row) -> None:
        """Take the record no more: its outcome is known, but could not be kept yet."""
        self._unmarked.add(row.offset)

    def mark(self, row: Row, outcome: bytes) -> None:
        """Keep the outcome of a record. Raises Closed or OSError."""
        os.pwrite(self._open().number, outcome, row.offset)
        self._unmarked.discard(row.offset)
        self._delivered = self._delivered or outcome == DELIVERED
        self.pending = max(0, self.pending - 1)
        self.size = max(0, self.size - len(row.line) - 2)

    def is_settled(self) -> bool:
        """Whether every record has its outcome on disk. Raises Closed."""
        return not (self.writers or self._unmarked or self.take(1))

    def seal(self, kept: Path) -> None:
        """Put a settled file aside under the time of its last mark, or remove it if none was sent.

        Raises OSError.
        """
        if self._delivered:
            when = time.gmtime(os.fstat(self._open().number).st_mtime)
            rest = self.path.name.split("-", 2)[2]
            self.path.rename(kept / f"{time.strftime(TIME, when)}-{rest}")
        else:
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Give the file up, and the lock as soon as the last call here ends."""
        self._file = self._out = None

    def abandon(self) -> None:
        """Close a parent's file in its forked child, also for a call that was interrupted."""
        for copy in (self._file, self._out):
            if copy is not None:
                copy.__del__()
        self.close()

    def _open(self) -> Descriptor:
        if self._file is None:
            raise Closed
        return self._file

    def _row(self, line: bytes, offset: int) -> Row | None:
        if line[:1] in {b"", DELIVERED, MOVED} or offset in self._unmarked:
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


def write(number: int, data: bytes) -> None:
    """Write all of it. Raises OSError."""
    if os.write(number, data) < len(data):
        raise OSError(errno.ENOSPC, "the disk took only a part of it")


def _is_ours(path: Path, number: int) -> bool:
    """Whether we have the lock, and the file was not removed or renamed before we had it."""
    try:
        return lock(number) and os.path.samestat(path.stat(), os.fstat(number))
    except FileNotFoundError:
        return False
