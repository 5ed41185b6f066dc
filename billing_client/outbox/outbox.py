"""An outbox: usage goes to disk at once, and to the service when that is there."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from uuid import uuid4

from billing_client.answers import read_verdicts
from billing_client.batches import Batch
from billing_client.errors import ConfigurationError, OutboxError, OutboxFull
from billing_client.outbox import forks
from billing_client.outbox.drainer import Drainer
from billing_client.outbox.events import Event, OnEvent, Teller
from billing_client.outbox.guard import Guard
from billing_client.outbox.orphans import Orphans
from billing_client.outbox.schema import Row
from billing_client.outbox.source import Source
from billing_client.outbox.store import Closed, Store
from billing_client.receipts import Receipt
from billing_client.transport import Transport
from billing_client.usage import Usage

logger = logging.getLogger(__name__)

MOST_RECORDS = 1_000_000
MOST_BYTES = 1024**3
# A file whose rejected records somebody may want to look at is put aside at most so often.
ASIDE_SECONDS = 60.0
_TRIES = 3
# A quota, or a limit on the size of files, is an error of writing to SQLite.
_NO_SPACE = {"SQLITE_FULL", "SQLITE_IOERR_WRITE"}


@dataclass(frozen=True, slots=True)
class Flushed:
    """What flush() did.

    sent           records that the service acknowledged meanwhile, also of processes that died
    pending        records that still wait on disk
    rejected       records that the service refused meanwhile; see ``python -m billing_client``
    paused_reason  what has to be corrected before anything is sent again, None if nothing
    """

    sent: int
    pending: int
    rejected: int
    paused_reason: str | None


@dataclass(frozen=True, slots=True)
class Stats:
    """An outbox at this moment.

    pending         records of this process that wait on disk
    oldest_seconds  how long the oldest of them has waited, by this machine's clock; None if none
    sent, rejected  records acknowledged and refused since the client was made
    paused_reason   what has to be corrected before anything is sent again, None if nothing
    last_error      why the last attempt failed, None if it did not
    """

    pending: int
    oldest_seconds: float | None
    sent: int
    rejected: int
    paused_reason: str | None
    last_error: str | None


class Bounds:
    """How much may wait on disk: records, and bytes of their JSON."""

    def __init__(self, records: int = MOST_RECORDS, size: int = MOST_BYTES) -> None:
        given: dict[str, object] = {"outbox_max_records": records, "outbox_max_bytes": size}
        for name, value in given.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name} is {value!r}, expected a whole number above 0.")
        self.records = records
        self.size = size


class Outbox:
    """Keeps usage on disk until the service has it; one per client and process."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        transport: Transport,
        *,
        seconds: float,
        fsync: bool = False,
        bounds: Bounds,
        on_event: OnEvent | None = None,
    ) -> None:
        self.directory = usable(directory)
        self.closed = False
        self._transport = transport
        self._seconds = seconds
        self._fsync = fsync
        self._bounds = bounds
        self._teller = Teller(on_event)
        self._at_exit = False
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        """All that a process must not share with its parent."""
        self._pid = os.getpid()
        self.guard = Guard()
        self.own: Source | None = None
        self.orphans = Orphans(self.directory, self._own_path)
        self._left: dict[Path, int] = {}
        self._aside = -ASIDE_SECONDS
        self._drainer = Drainer(self, self._ask, self._teller)

    def enqueue(self, usage: Usage) -> None:
        """Write it to disk; see BillingClient.enqueue."""
        self._in_this_process()
        stamp = datetime.now(UTC) if usage.occurred_at is None else None
        record = usage.to_json(occurred_at=stamp)
        try:
            self._write(usage.request_id, record, stamped=stamp is not None)
        except (sqlite3.Error, OSError) as error:
            raise _unwritten(error, self.directory, usage.request_id) from error
        if not self._at_exit:
            self._drainer.start()
            self._drainer.wakeup.set()

    def flush(self, timeout: float) -> Flushed:
        """Send what waits; see BillingClient.flush."""
        self._in_this_process()
        drainer = self._drainer
        sent, rejected = drainer.sent, drainer.rejected
        if not self.closed:
            drainer.flush(timeout)
        return Flushed(
            drainer.sent - sent, self.pending(), drainer.rejected - rejected, drainer.paused_reason
        )

    def stats(self) -> Stats:
        """How it stands."""
        self._in_this_process()
        drainer = self._drainer
        return Stats(
            pending=self.pending(),
            oldest_seconds=self.guard.run(self._oldest),
            sent=drainer.sent,
            rejected=drainer.rejected,
            paused_reason=drainer.paused_reason,
            last_error=drainer.last_error,
        )

    def pending(self) -> int:
        """Records of this process that wait."""
        own, orphan = self.own, self.orphans.source
        at_hand = [source for source in (own, orphan) if source and source.store.is_open]
        paths = {source.store.path for source in at_hand}
        self._left = {path: n for path, n in self._left.items() if path.exists()}
        left = sum(n for path, n in self._left.items() if path not in paths)
        return left + sum(source.pending for source in at_hand)

    def close(self, timeout: float, *, at_exit: bool = False) -> None:
        """Send what can be sent in time, and leave the rest to the next process."""
        self._in_this_process()
        if self.closed:
            return
        if self.own is not None or self._left:
            self.flush(timeout)
        self._drainer.stop()
        self._at_exit = at_exit
        self.closed = True
        self.guard.run(self._let_go_for_good)
        if not at_exit:
            forks.forget(self)

    def let_go(self) -> None:
        """Close the files at hand; what is left in them stays there."""
        self.orphans.close()
        own, self.own = self.own, None
        if own is not None:
            own.store.close(all_settled=own.is_acknowledged())
            if own.pending:
                self._left[own.store.path] = own.pending

    def _let_go_for_good(self) -> None:
        # The drainer may be on its way to the next file, which it would keep locked.
        self.orphans.stopped = True
        self.let_go()

    def retire(self) -> None:
        """Put the own file aside where others can look at its rejected records."""
        own = self.own
        if own is None or own.pending or self.guard.is_nested():
            return
        due = monotonic() - self._aside >= ASIDE_SECONDS
        if own.is_acknowledged() or (own.store.summary.rejected and not own.unsettled and due):
            self._aside = monotonic()
            self.own = None
            own.store.close(all_settled=own.is_acknowledged())

    def give_up(self, why: str) -> None:
        """Leave a damaged file as it is."""
        own, self.own = self.own, None
        if own is not None:
            own.store.close()
            reason = f"{own.store.path.name} is left alone: it cannot be read ({why})."
            self._teller.later(Event("unusable_file", own.pending, reason))

    # Forks

    def before_fork(self) -> None:
        """Close the files, and keep everybody from opening one before the fork is over."""
        self._in_this_process()
        self.guard.hold()
        self.let_go()

    def after_fork_in_parent(self) -> None:
        """Go on, with a new file."""
        self.guard.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: locks, thread and files of the parent are none of this process's."""
        for source in (self.own, self.orphans.source):
            connection = source.store.abandon() if source else None
            if connection is not None:
                forks.leak(connection)
        self._begin()

    def _in_this_process(self) -> None:
        """Notice forks made in C, which run no hooks."""
        if os.getpid() != self._pid:
            self.after_fork_in_child()

    def _write(self, request_id: str, record: bytes, *, stamped: bool) -> None:
        if self._at_exit:
            # Not under the guard: the interpreter may have frozen the thread that holds it.
            self._append_aside(request_id, record, stamped=stamped)
        else:
            self.guard.run(self._append, request_id, record, stamped=stamped)

    # Under the guard

    def _own_path(self) -> Path | None:
        return self.own.store.path if self.own else None

    def _append(self, request_id: str, record: bytes, *, stamped: bool) -> None:
        if self.guard.is_nested():
            self._append_aside(request_id, record, stamped=stamped)
            return
        for _ in range(_TRIES):
            if self.closed:
                raise ConfigurationError("This billing client is closed; make a new one.")
            store = self._own_store()
            self._check_bounds(store, len(record), request_id)
            try:
                store.append(request_id, record, stamped=stamped)
            except (Closed, sqlite3.ProgrammingError):
                continue  # a signal handler forked or closed in between
            return
        raise sqlite3.OperationalError("its file was closed again and again")

    def _append_aside(self, request_id: str, record: bytes, *, stamped: bool) -> None:
        """Write it to a file of its own, because the usual one is in use or given up for ever.

        The interrupted code may be in a transaction, which may still be rolled back.
        """
        store = Store.create(self.directory, fsync=self._fsync)
        try:
            store.append(request_id, record, stamped=stamped)
            self._left[store.path] = 1
        finally:
            store.close()

    def _own_store(self) -> Store:
        if self.own is None:
            self.own = Source(Store.create(self.directory, fsync=self._fsync), new=True)
        return self.own.store

    def _check_bounds(self, store: Store, size: int, request_id: str) -> None:
        summary, bounds = store.summary, self._bounds
        if summary.pending >= bounds.records or summary.size + size > bounds.size:
            raise OutboxFull(
                f"The outbox in {self.directory} is full: {summary.pending} records of"
                f" {summary.size} bytes wait; call again once some are sent, nothing was kept.",
                request_ids=[request_id],
            )

    def _oldest(self) -> float | None:
        oldest = self.own.store.oldest() if self.own and self.own.pending else None
        return None if oldest is None else max(0.0, time.time() - oldest)

    # For the drainer

    def _ask(self, rows: Sequence[Row]) -> Sequence[Receipt | None]:
        return ask(self._transport, rows, seconds=self._seconds)


def ask(transport: Transport, rows: Sequence[Row], *, seconds: float) -> list[Receipt | None]:
    """Send the records once; return each one's receipt, None where there is none to be trusted."""
    batch = Batch()
    for row in rows:
        batch.add(row.request_id, row.record)
    request = transport.prepare(batch.body(), trace_id=uuid4().hex)
    return read_verdicts(transport.post(request, seconds=seconds), batch.request_ids)


def usable(directory: str | os.PathLike[str]) -> Path:
    """The directory, made for this user alone if it is not there. Raises ConfigurationError."""
    path = Path(directory).absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        Store.create(path).close()
    except (OSError, sqlite3.Error) as error:
        if _is_full(error):
            logger.warning("the disk of %s is full: what waits there is sent, and frees it", path)
            return path
        raise ConfigurationError(
            f"The outbox directory {path} cannot be used: {error};"
            " expected a local directory that this user may write to."
        ) from error
    return path


def _unwritten(error: Exception, directory: Path, request_id: str) -> OutboxError:
    kind = OutboxFull if _is_full(error) else OutboxError
    return kind(
        f"The usage could not be written to {directory} ({error}); free space or correct the"
        " directory, and call again: nothing was kept.",
        request_ids=[request_id],
    )


def _is_full(error: Exception) -> bool:
    name = getattr(error, "sqlite_errorname", "")
    number = getattr(error, "errno", None)
    return name in _NO_SPACE or number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
