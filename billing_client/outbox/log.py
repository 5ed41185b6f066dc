"""The files that one process writes to, and one that it adopted from a process that ended.

Writing takes no lock, so that a signal handler, a finalizer or a fork may come between any two
steps: a record is written once its file is still the active one after the write. If another is, it
is written to that as well, at worst for a replay. Only files that are not active are put aside.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from itertools import islice

from billing_client.errors import OutboxFull
from billing_client.outbox.directory import Directory, is_full
from billing_client.outbox.segment import PENDING, Segment, rows
from billing_client.processes import Process

logger = logging.getLogger(__name__)


class Log:
    """All that a process must not share with its parent.

    own      the segments that this process made
    adopted  one that it sends for a process that ended
    waiting  the one of its own whose records wait for their customer, or the service's clock
    """

    def __init__(self, directory: Directory, *, fsync: bool) -> None:
        self.process = Process.name()
        self.own: list[Segment] = []
        self.adopted: Segment | None = None
        self.waiting: Segment | None = None
        self.closed = False
        self._active: Segment | None = None
        self._directory = directory
        self._fsync = fsync

    def append(self, line: bytes, request_id: str) -> bool:
        """Write a record; False if the files were given up meanwhile.

        Raises OutboxFull or OSError.
        """
        self._check_room(len(line), request_id)
        while not self.closed:
            segment = self._active
            try:
                if segment is None or segment.is_complete():
                    segment = self._active = self._new("usage")
                segment.append(line, fsync=self._fsync)
            except OSError as error:
                if segment is self._active and not (is_full(error) and self.free()):
                    raise
            else:
                if segment is self._active and not self.closed:
                    return True
        self.close()  # again: a signal handler may have done it while a file was made
        return False

    def put_off(self, line: bytes) -> None:
        """Copy a record to those that wait, so that its file is soon done with. Raises OSError."""
        self.waiting = self.waiting or self._new("waiting")
        self.waiting.append(b"\n%b\n" % line, fsync=self._fsync)

    def pending(self) -> int:
        """The records of this process that wait."""
        return max(0, sum(segment.pending for segment in self.own))

    def oldest_seconds(self) -> float | None:
        """How long the oldest of them has waited, by this machine's clock."""
        ages: list[float] = []
        for segment in tuple(self.own):
            with suppress(OSError):  # closed meanwhile
                ages += [time.time() - row.at for row in islice(rows(segment.number, PENDING), 1)]
        return max(0.0, *ages) if ages else None

    def retire(self, segment: Segment) -> None:
        """Put a segment aside that is sent, and that nothing is written to any more."""
        if segment is self._active or segment is self.waiting:
            return
        try:
            if segment.is_settled():
                with suppress(ValueError):  # it is the adopted one
                    self.own.remove(segment)
                with suppress(FileNotFoundError):  # another thread was faster
                    segment.put_aside(self._directory.kept_path)
        except OSError as error:  # the next process does it
            logger.warning("outbox: %s could not be put aside: %s", segment.path, error)

    def free(self) -> bool:
        """Put sent segments aside, and remove the oldest; False if there is none."""
        self._put_aside()
        oldest = self._directory.kept()[:1]
        for path in oldest:
            self._directory.forget(path)
        return bool(oldest)

    def _put_aside(self) -> None:
        if self._active is not None and self._active.is_settled():
            self._active = None
        for segment in tuple(self.own):
            self.retire(segment)

    def give_back(self) -> None:
        """Let another process adopt the rest of the adopted segment."""
        if self.adopted is not None:
            self.adopted.release()
        self.adopted = None

    def close(self) -> None:
        """Give all files up; what waits in them stays on disk."""
        self.closed, self._active, self.waiting = True, None, None
        segments, self.own = self.own, []
        for segment in segments:
            self.retire(segment)
            segment.release()

    def abandon(self) -> None:
        """Close the parent's files in a forked child; the parent keeps its locks.

        At once: a call that was interrupted for the fork goes on here too.
        """
        segments, self.own = [*self.own, self.adopted], []
        self.closed, self._active = True, None
        for segment in segments:
            if segment is not None:
                segment.close()

    def _new(self, kind: str) -> Segment:
        segment = Segment.create(self._directory.path, kind)
        self.own.append(segment)
        return segment

    def _check_room(self, size: int, request_id: str) -> None:
        directory, bounds = self._directory, self._directory.bounds
        if directory.size + size > bounds.size:
            # The size only grows between two looks at the disk, and may be far too large.
            directory.prune()
        if directory.size + size > bounds.size:
            # Delivered usage goes first; a file that is put aside waits no longer.
            self._put_aside()
            directory.prune()
        records = self.pending()
        if records >= bounds.records or directory.size + size > bounds.size:
            raise OutboxFull(
                f"The outbox in {directory.path} is full: {records} records of this process wait,"
                f" and {directory.size} bytes with those of other processes; call again once some"
                " are sent, nothing was kept.",
                request_ids=[request_id],
            )
        directory.size += size
