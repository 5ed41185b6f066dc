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
from uuid import uuid4

from billing_client.answers import read_verdicts
from billing_client.batches import Batch
from billing_client.errors import ConfigurationError, OutboxError, OutboxFull
from billing_client.outbox import forks
from billing_client.outbox.drainer import Drainer
from billing_client.outbox.events import OnEvent, Teller
from billing_client.outbox.files import Bounds, Files
from billing_client.outbox.schema import Row
from billing_client.outbox.store import Closed, Store
from billing_client.receipts import Receipt
from billing_client.transport import Transport
from billing_client.usage import Usage

logger = logging.getLogger(__name__)

# A quota, or a limit on the size of files, is an error of writing to SQLite.
_NO_SPACE = {"SQLITE_FULL", "SQLITE_IOERR_WRITE"}


@dataclass(frozen=True, slots=True)
class Flushed:
    """What flush() did.

    sent           records that the service acknowledged meanwhile, also of processes that died
    pending        records of this process that still wait on disk, and those of the dead process
                   whose file is being sent
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

    pending         records of this process that wait on disk, and those of the dead process whose
                    file is being sent
    oldest_seconds  how long the oldest of its own has waited, by this machine's clock; None if none
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
        self._processes: dict[int, tuple[Files, Drainer]] = {}
        self._here()
        forks.watch(self)

    def enqueue(self, usage: Usage) -> None:
        """Write it to disk; see BillingClient.enqueue."""
        stamp = datetime.now(UTC) if usage.occurred_at is None else None
        record = usage.to_json(occurred_at=stamp)
        try:
            self._write(usage.request_id, record, stamped=stamp is not None)
        except (sqlite3.Error, OSError) as error:
            raise _unwritten(error, self.directory, usage.request_id) from error

    def flush(self, timeout: float) -> Flushed:
        """Send what waits; see BillingClient.flush."""
        files, drainer = self._here()
        before = files.counts()
        if not self.closed:
            drainer.flush(timeout)
        after = files.counts()
        return Flushed(
            after.sent - before.sent,
            after.pending,
            after.rejected - before.rejected,
            drainer.paused_reason,
        )

    def stats(self) -> Stats:
        """How it stands."""
        files, drainer = self._here()
        sent, rejected, pending = files.counts()
        oldest = files.oldest()
        return Stats(
            pending=pending,
            oldest_seconds=None if oldest is None else max(0.0, time.time() - oldest),
            sent=sent,
            rejected=rejected,
            paused_reason=drainer.paused_reason,
            last_error=drainer.last_error,
        )

    def close(self, timeout: float, *, at_exit: bool = False) -> None:
        """Send what can be sent in time, and leave the rest to the next process."""
        if self.closed:
            return
        files, drainer = self._here()
        if not files.are_at_rest():
            drainer.flush(timeout)
        drainer.stop()
        self._at_exit = at_exit
        self.closed = True
        files.close()
        if not at_exit:
            forks.forget(self)

    # Forks

    def before_fork(self) -> None:
        """Close the files, and keep everybody from opening one before the fork is over."""
        files, _ = self._here()
        files.guard.acquire()
        files.let_go()

    def after_fork_in_parent(self) -> None:
        """Go on, with a new file."""
        files, _ = self._here()
        files.guard.release()

    def after_fork_in_child(self) -> None:
        """Begin anew: locks, thread and files of the parent are none of this process's."""
        self._here()

    def _here(self) -> tuple[Files, Drainer]:
        """What this process has. Also notices forks made in C, which run no hooks."""
        pid = os.getpid()
        return self._processes.get(pid) or self._begun(pid)

    def _begun(self, pid: int) -> tuple[Files, Drainer]:
        """All that a process must not share with its parent."""
        files = Files(self._create, self.directory, self._bounds, closed=self.closed)
        drainer = Drainer(files, self._ask, self._teller)
        # Many threads of a child may be the first at once, and all have to get the same.
        here = self._processes.setdefault(pid, (files, drainer))
        for other in tuple(self._processes):
            of_parent = self._processes.pop(other, None) if other != pid else None
            for connection in of_parent[0].abandon() if of_parent else ():
                forks.leak(connection)
        return here

    # Writing

    def _write(self, request_id: str, record: bytes, *, stamped: bool) -> None:
        files, drainer = self._here()
        if not self._at_exit:
            try:
                files.append(request_id, record, stamped=stamped)
            except Closed:
                if files is not self._here()[0]:  # a signal handler forked, and this is the child
                    self._write(request_id, record, stamped=stamped)
                    return
                if not self._at_exit:
                    raise ConfigurationError(
                        "This billing client is closed; make a new one."
                    ) from None
            else:
                drainer.start()
                drainer.wakeup.set()
                return
        self._write_at_the_end(request_id, record, stamped=stamped)

    def _write_at_the_end(self, request_id: str, record: bytes, *, stamped: bool) -> None:
        """To a file of its own, which the next process finds.

        Not under the guard: the interpreter may have frozen the thread that holds it.
        """
        store = self._create()
        try:
            store.append(request_id, record, stamped=stamped)
        finally:
            store.close()

    def _create(self) -> Store:
        return Store.create(self.directory, fsync=self._fsync)

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
