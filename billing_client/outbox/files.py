"""All files that one process has open: its own, and one at a time of a process that died."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import RLock
from time import monotonic
from typing import NamedTuple

from billing_client.errors import ConfigurationError, OutboxFull
from billing_client.outbox.events import Teller
from billing_client.outbox.orphans import Orphans
from billing_client.outbox.schema import Row, Verdict
from billing_client.outbox.source import Source
from billing_client.outbox.store import Closed, Store

MOST_RECORDS = 1_000_000
MOST_BYTES = 1024**3
# A file whose rejected records somebody may want to look at is put aside at most so often.
ASIDE_SECONDS = 60.0
_TRIES = 3


class Bounds:
    """How much may wait on disk: records, and bytes of their JSON."""

    def __init__(self, records: int = MOST_RECORDS, size: int = MOST_BYTES) -> None:
        given: dict[str, object] = {"outbox_max_records": records, "outbox_max_bytes": size}
        for name, value in given.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name} is {value!r}, expected a whole number above 0.")
        self.records = records
        self.size = size


class Counts(NamedTuple):
    """What became of records since this process began."""

    sent: int
    rejected: int
    pending: int


class Files:
    """What to write to, and what to send.

    The guard keeps threads apart. It does not keep a thread apart from itself: a signal handler
    or a finalizer may come between any two steps, and may enqueue, close or fork. Where it finds
    a file in use, it interrupted somebody at work there: it writes to another one, and closes
    none. For that a process may own more than one file; mostly it has one.
    """

    def __init__(
        self, create: Callable[[], Store], directory: Path, bounds: Bounds, *, closed: bool
    ) -> None:
        # A lock written in C, so that a KeyboardInterrupt cannot leave it taken.
        self.guard = RLock()
        self.own: list[Source] = []
        self.closed = closed
        self._create = create
        self._directory = directory
        self._bounds = bounds
        self._orphans = Orphans(directory, self._is_own)
        self._left: dict[Path, int] = {}
        self._aside = -ASIDE_SECONDS
        self._sent = 0
        self._rejected = 0

    def append(self, request_id: str, record: bytes, *, stamped: bool) -> None:
        """Write a record to a file of this process.

        Raises OutboxFull, Closed, OSError or sqlite3.Error.
        """
        with self.guard:
            try:
                for _ in range(_TRIES):
                    if self.closed:
                        raise Closed
                    source = self._with_room(len(record), request_id)
                    try:
                        source.store.append(request_id, record, stamped=stamped)
                    except sqlite3.OperationalError:
                        raise
                    except (Closed, sqlite3.DatabaseError):
                        # A signal handler closed or forked in between, or the file is damaged.
                        self._part_with(source)
                    else:
                        return
                raise sqlite3.OperationalError("its file was closed again and again")
            finally:
                if self.closed:  # by a signal handler, which could not close what was in use
                    self.let_go()

    def counts(self) -> Counts:
        """What was sent and refused, and what waits: all from one moment."""
        if self.closed:
            # Not under the guard: the end of the interpreter may have frozen who holds it.
            return Counts(self._sent, self._rejected, self._pending())
        with self.guard:
            return Counts(self._sent, self._rejected, self._pending())

    def oldest(self) -> float | None:
        """When the oldest record of the own files was enqueued, in seconds since 1970."""
        if self.closed:
            return None
        with self.guard:
            idle = [source.store for source in tuple(self.own) if not source.store.in_use]
            return min((at for store in idle if (at := store.oldest()) is not None), default=None)

    def are_at_rest(self) -> bool:
        """Whether this process has nothing that it would have to send."""
        return not self.own and not self._left

    def let_go(self) -> None:
        """Close every file that is not in use by whoever was interrupted for this."""
        with self.guard:
            self._orphans.close()
            for source in tuple(self.own):
                self._part_with(source)

    def close(self) -> None:
        """Close all for good; what is in them stays there for the next process."""
        self.closed = True
        with self.guard:
            # The drainer may be on its way to the next file, which it would keep locked.
            self._orphans.stopped = True
            self.let_go()

    def abandon(self) -> list[sqlite3.Connection]:
        """The connections, never to be closed: they are a parent's, copied into this process."""
        self.closed = True  # for whoever was interrupted for the fork, and goes on here too
        sources = [*self.own, self._orphans.source]
        found = [source.store.abandon() for source in sources if source is not None]
        return [connection for connection in found if connection is not None]

    # For the drainer

    def take(self, source: Source, limit: int) -> list[Row]:
        """The next records of an own file."""
        with self.guard:
            try:
                return source.take(limit)
            except Closed:
                return []  # at a fork
            except sqlite3.DatabaseError:
                # As an orphan it is drained, or reported and left alone.
                self._part_with(source)
                return []

    def take_orphan(
        self, limit: int, teller: Teller, *, urgent: bool
    ) -> tuple[Source | None, list[Row]]:
        """The next records of a dead process, and where to settle them."""
        with self.guard:
            return self._orphans.take(limit, teller, urgent=urgent)

    def settle(self, source: Source, verdicts: Sequence[Verdict]) -> None:
        """Note what became of records. Raises Closed if the file is no longer this process's.

        Raises sqlite3.Error where it is only noted in memory.
        """
        with self.guard:
            if not source.store.is_open:
                raise Closed
            self._sent += sum(verdict.fate == "delivered" for verdict in verdicts)
            self._rejected += sum(verdict.fate == "rejected" for verdict in verdicts)
            source.settle(verdicts)
            source.store.tidy()

    def put_in_order(self, source: Source) -> None:
        """See to an own file that has nothing to send. Raises sqlite3.Error."""
        with self.guard:
            if not source.store.is_open:
                return
            try:
                source.settle(())
                source.store.tidy()
            finally:
                self._retire(source)

    # Under the guard

    def _with_room(self, size: int, request_id: str) -> Source:
        """A file of this process that is not in use, or a new one. Raises OutboxFull."""
        idle = None
        records = 0
        for source in tuple(self.own):
            store = source.store
            records += store.usage + store.waiting
            size += store.size
            if idle is None and not store.in_use:
                idle = source
        if records >= self._bounds.records or size > self._bounds.size:
            raise OutboxFull(
                f"The outbox in {self._directory} is full: {records} records wait, {size} bytes"
                " with this one; call again once some are sent, nothing was kept.",
                request_ids=[request_id],
            )
        if idle is None:
            idle = Source(self._create(), new=True)
            self.own.append(idle)
        return idle

    def _retire(self, source: Source) -> None:
        """Give up an own file that is of no more use, or that others should look into."""
        if source.pending:
            return
        due = monotonic() - self._aside >= ASIDE_SECONDS
        to_look_at = source.store.rejected and not source.unsettled and due
        is_spare = source not in self.own[:1]
        if to_look_at:
            self._aside = monotonic()
        if to_look_at or is_spare or source.is_acknowledged():
            self._part_with(source)

    def _part_with(self, source: Source) -> None:
        if source.store.in_use:
            return
        with suppress(ValueError):  # a signal handler was here meanwhile
            self.own.remove(source)
        source.close()
        if source.pending:
            self._left[source.store.path] = source.pending

    def _is_own(self, path: Path) -> bool:
        return any(source.store.path == path for source in tuple(self.own))

    def _pending(self) -> int:
        at_hand = [*self.own, *([self._orphans.source] if self._orphans.source else [])]
        paths = {source.store.path for source in at_hand}
        self._left = {path: n for path, n in self._left.items() if path.exists()}
        left = sum(n for path, n in self._left.items() if path not in paths)
        return left + sum(source.pending for source in at_hand)
