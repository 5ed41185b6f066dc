"""An outbox: usage goes to disk at once, and to the service when that is there.

Each process appends to a segment of its own (segment.py, log.py), so that no process ever waits
for another one, stopped or dead. A thread sends its records in order, its own or one of flush(),
and marks each record's outcome in place. A segment that is sent is renamed and kept for a while,
so that it can be sent again if the service is restored from a backup (directory.py). Records that
wait for their customer are copied to a segment of their own, and refused ones to a file with the
reason: neither holds its neighbours back. The segments of processes that ended are found by their
lock, and sent by any process that lives, never in a call of enqueue().
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import warnings
from _thread import get_ident, start_new_thread
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from time import monotonic, sleep

from billing_client.answers import read_verdicts
from billing_client.batches import Batch
from billing_client.calls import RETRIED, Call
from billing_client.config import LONGEST_SECONDS, Bounds, Limits
from billing_client.errors import (
    BillingError,
    ConfigurationError,
    CustomerNotFoundError,
    OutboxError,
    OutboxFull,
    some,
)
from billing_client.outbox.delivery import Fate, Pace, deliver, fate
from billing_client.outbox.directory import Directory, is_full, usable
from billing_client.outbox.events import (
    Event,
    Flushed,
    OnEvent,
    OutboxWarning,
    Stats,
    tell,
)
from billing_client.outbox.log import Log
from billing_client.outbox.segment import (
    DELIVERED,
    HAS_LOCKS,
    MOVED,
    PENDING,
    START,
    Row,
    Segment,
    line_of,
    rows,
)
from billing_client.outbox.sqlite_files import take_over
from billing_client.processes import Process
from billing_client.receipts import Receipt
from billing_client.retries import Deadline
from billing_client.transport import Transport
from billing_client.usage import Usage

try:
    import _interpreters as interpreters  # type: ignore[import-not-found]  # from Python 3.13 on
except ImportError:
    import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]

# What sleeps and starts the thread is bound above, at one moment: gevent may replace it later.

logger = logging.getLogger(__name__)

EXIT_SECONDS = 2.0
RESCAN_SECONDS = 30.0
# The thread looks so often for records, and sends those together that came meanwhile.
LINGER_SECONDS = 0.2
# A caller who waits looks so often: a lock to wait for could be left taken by a signal handler.
LOOK_SECONDS = 0.01
# For attempts: the first ceiling of the jitter, the last one, and what flush() waits at least.
ATTEMPTS = (1.0, 60.0, 1.0)
# For records that wait for their customer, or for the service's clock.
CUSTOMERS = (5.0, 3600.0)


class Outbox:
    """Keeps usage on disk until the service has it; one per directory and process."""

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
        if not HAS_LOCKS:
            raise ConfigurationError(
                "The outbox needs the locks of files that Linux and macOS have."
            )
        self.path = usable(directory)
        self.directory = Directory(self.path, bounds)
        self._transport = transport
        self._once = Limits(attempts=1, total=min(seconds, LONGEST_SECONDS))
        self._fsync = fsync
        self._tell = partial(tell, on_event)
        self._closed = False
        if any(other.path == self.path for other in tuple(_watched.values())):
            _warn(
                f"This process has another open client for the outbox in {self.path}; share one,"
                " or close each: every client has a thread and files of its own."
            )
        self.directory.claim(transport.endpoint)
        self._begin()
        _watched[id(self)] = self

    def _begin(self) -> None:
        """Set up what a process must not share with its parent."""
        self._log = Log(self.directory, fsync=self._fsync)
        self._log.closed = self._closed
        self._paused_reason: str | None = None
        self._last_error: str | None = None
        self._sent = self._rejected = 0
        self._reported: set[Path] = set()
        self._attempts, self._customers = Pace(*ATTEMPTS), Pace(*CUSTOMERS)
        # Those that do not exist yet, and those whose records are left alone until the next try.
        self._unknown: set[int] = set()
        self._put_off: set[int] = set()
        self._orphans: Iterator[Path] = iter(())
        self._scan_due = 0.0
        # Whether the thread was started, and which thread is sending: that one, or one of flush().
        self._started, self._worker = False, 0

    def here(self) -> Log:
        """The files of this process. Also notices forks in C, which run no hooks."""
        log = self._log
        if log.process != Process.name():
            # If several threads come first at once, each has a log, and only the last one is sent
            # from. The others' files are found like those of processes that ended.
            self._begin()
            log.abandon()
        return self._log

    def enqueue(self, usage: Usage) -> None:
        """Write it to disk; see BillingClient.enqueue."""
        if self._closed:
            raise ConfigurationError("This billing client is closed; make a new one.")
        stamp = datetime.now(UTC) if usage.occurred_at is None else None
        record = usage.to_json(occurred_at=stamp)
        line = line_of(record, stamped=stamp is not None, at=time.time())
        try:
            log = self.here()
            while not log.append(line, usage.request_id):
                if log is self.here():
                    # Closed meanwhile, or the interpreter ends: the next process finds this file.
                    return Segment.create(self.path, "usage").append(line, fsync=self._fsync)
                log = self.here()  # a signal handler forked, and this is the child
            if not self._started:
                self._start()
        except OSError as error:
            kind = OutboxFull if is_full(error) else OutboxError
            raise kind(
                f"The usage could not be written to {self.path} ({error}); free space or correct"
                " the directory, and call again with the same Usage: it is counted once, even if"
                " some of it was kept.",
                request_ids=[usage.request_id],
            ) from error

    def flush(self, seconds: float | None) -> Flushed:
        """Send what waits; see BillingClient.flush."""
        log, deadline = self.here(), Deadline(seconds)
        sent, rejected = self._sent, self._rejected
        self._scan_due = 0.0
        self._attempts.hurry()
        self._customers.hurry()
        ended: list[bool | None] = [None]

        def work() -> None:
            while more := self._send_once():
                pass
            ended.append(more)

        # Not where a finalizer, a signal handler or on_event would wait for its own thread.
        while not log.closed and self._worker != get_ident() and (left := deadline.left()) > 0:
            if ended[-1] is False or (self._attempts.left() and self._paused_reason is not None):
                break
            if not (self._worker or self._attempts.left()):
                # In a thread, so that a request has its whole time, whatever this call has.
                try:
                    start_new_thread(work, ())
                except RuntimeError:  # the system has none left, or the interpreter ends
                    if not self._started:
                        work()
                    elif not log.pending():  # the outbox's own thread has sent all
                        break
            sleep(min(left, LOOK_SECONDS))
        return Flushed(
            self._sent - sent, log.pending(), self._rejected - rejected, self._paused_reason
        )

    def stats(self) -> Stats:
        """The state of the outbox."""
        log = self.here()
        return Stats(
            pending=log.pending(),
            oldest_seconds=log.oldest_seconds(),
            sent=self._sent,
            rejected=self._rejected,
            paused_reason=self._paused_reason,
            last_error=self._last_error,
            next_attempt_seconds=self._attempts.left() or None,
            waiting_for=tuple(self._unknown),
        )

    def close(self, timeout: float | None, *, at_exit: bool = False) -> None:
        """Send what can be sent in time, and leave the rest to the next process."""
        if self._closed:
            return
        log = self.here()
        if log.pending():
            self.flush(timeout)
        # At the exit, finalizers may still enqueue.
        self._closed = not at_exit
        pending = log.pending()
        log.close()
        if at_exit and interpreters.get_current() != interpreters.get_main():
            # The end of a sub-interpreter aborts the process if a thread is left.
            deadline = Deadline(self._once.total + 1)
            while (self._started or self._worker) and deadline.left() > 0:
                sleep(LOOK_SECONDS)
            sleep(5 * LOOK_SECONDS)
        if not at_exit:
            _watched.pop(id(self), None)
        if pending:
            waits = tuple(self._unknown)
            _warn(
                f"{pending} usage records are not sent yet and wait in {self.path}"
                + (f", some for customers that do not exist ({some(waits)})" if waits else "")
                + "; the next client of this directory sends them, and so does:"
                f" billing-client --outbox {self.path} drain",
                at_exit=at_exit,
            )

    # Sending

    def _start(self) -> None:
        # Not threading.Thread, whose start() takes a lock that a signal handler may have
        # interrupted its own thread under.
        with suppress(RuntimeError):  # the system has no thread left; the next call tries again
            start_new_thread(self._run, (self._log,))
            self._started = True

    def _run(self, log: Log) -> None:
        try:
            while not log.closed:
                sleep(LINGER_SECONDS)
                while self._send_once():
                    pass
        finally:
            self._started = False

    def _send_once(self) -> bool | None:
        """Send what there is; whether there may be more, None if it was not the time to send."""
        log, me, is_early = self._log, get_ident(), self._attempts.left() > 0
        # Nothing is called between the look at _worker and its change, where another thread might
        # do the same. A lock would not do: a KeyboardInterrupt might leave it taken.
        if self._log.closed or is_early or self._worker:
            return None
        self._worker = me
        try:
            return self._send_all(log)
        except Exception as error:  # noqa: BLE001 - whatever it is, usage waits behind it
            if not log.closed:  # its connections with it
                self._failed(error)
            return not log.closed
        finally:
            self._worker = 0
            if log.closed:
                log.close()  # files made or adopted meanwhile

    def _failed(self, error: Exception) -> None:
        # So that this makes no customer, and no file of a process that ended, wait longer.
        self._customers.hurry()
        self._scan_due = 0.0
        seconds = self._attempts.failed(getattr(error, "retry_after", None))
        self._last_error = f"{error} The next attempt is due in {seconds:.0f} s."
        if isinstance(error, RETRIED):
            self._tell(Event("failed", reason=self._last_error))
        elif not isinstance(error, BillingError):
            logger.error("the outbox failed and tries again", exc_info=error)
        elif self._paused_reason is None:
            self._paused_reason = str(error)
            self._tell(Event("paused", reason=self._paused_reason))

    def _send_all(self, log: Log) -> bool:
        """Send this process's records, and those of one that ended; whether there was one."""
        if monotonic() >= self._scan_due:
            # Also for the files of processes that ended.
            self._scan_due = monotonic() + RESCAN_SECONDS
            self.directory.prune()
            take_over(self.directory, self._report)
            self._orphans = iter(self.directory.segments())
            for segment in log.own:
                segment.position = START  # for records whose outcome could not be kept
        if tries := not self._customers.left():
            self._customers.failed()
            self._put_off.clear()
        for segment in tuple(log.own):
            if segment is not log.waiting:
                self._send_segment(log, segment)
        if tries and log.waiting is not None:
            log.waiting.position = START
            self._send_segment(log, log.waiting)
        # One at a time, so that other processes share in them.
        for path in self._orphans:
            try:
                log.adopted = Segment.adopt(path)
                if log.adopted is not None:
                    self._tell(Event("adopted", reason=path.name))
                    self._send_segment(log, log.adopted)
                    self._reported.discard(path)
                    return True
            except (OSError, ValueError) as error:
                # Perhaps without a free descriptor, or before a chown: it is looked at again.
                self._report(path, error)
            finally:
                log.give_back()
        return False

    def _report(self, path: Path, error: Exception) -> None:
        if path not in self._reported:
            self._reported.add(path)
            self._tell(Event("unusable_file", reason=f"{path.name} is left alone: {error}."))

    def _send_segment(self, log: Log, segment: Segment) -> None:
        """Send what has no outcome yet. Raises BillingError."""
        unsent = rows(segment.number, PENDING, segment.position)
        if segment is log.waiting:
            unsent = (row for row in unsent if row.customer_id not in self._put_off)
        limit = self._attempts.limit
        while not log.closed and (batch := list(islice(unsent, limit))):
            trouble = self._settle(log, segment, [_damaged(row) for row in batch if not row.record])
            for answered in deliver(self._ask, [row for row in batch if row.record]):
                trouble = self._settle(log, segment, answered) or trouble
            segment.position = batch[-1].end
            self._last_error = trouble
            self._attempts.succeeded()
            if self._paused_reason is not None:
                self._paused_reason = None
                self._tell(Event("resumed"))
            # What comes meanwhile is sent together, and not each for itself.
            if len(batch) < limit:
                break
            limit = self._attempts.limit
        if segment is log.waiting and segment.pending <= 0:
            log.waiting = None
        log.retire(segment)

    def _settle(
        self, log: Log, segment: Segment, answered: Sequence[tuple[Row, Receipt]]
    ) -> str | None:
        """Keep these outcomes and tell of them; return why one could not be kept, if so."""
        told: dict[Fate, list[tuple[Row, BillingError | None]]] = {}
        trouble = None
        for row, receipt in answered:
            outcome, error = fate(row, receipt.error), receipt.error
            try:
                self._keep(log, segment, row, outcome, error)
                told.setdefault(outcome, []).append((row, error))
            except OSError as failure:  # the record is sent again after the next scan
                trouble = f"The outbox cannot note that records were sent ({failure}); free space."
                if is_full(failure):
                    log.free()
        for kind, those in told.items():
            ids = tuple(row.request_id for row, _ in those) if kind != "sent" else ()
            self._tell(Event(kind, len(those), str(those[0][1] or ""), ids))
        if trouble is not None:
            logger.error("%s", trouble)
        return trouble

    def _keep(
        self, log: Log, segment: Segment, row: Row, outcome: Fate, error: BillingError | None
    ) -> None:
        if outcome == "waiting":
            if segment is not log.waiting:
                log.put_off(row.line)
                segment.mark(row, MOVED)
                if row.customer_id not in self._put_off and row.customer_id not in self._unknown:
                    self._customers.reset()
                    self._customers.failed()
            self._put_off.add(row.customer_id)
            if isinstance(error, CustomerNotFoundError):
                self._unknown.add(row.customer_id)
            return
        if outcome == "sent" or error is None:
            segment.mark(row, DELIVERED)
            self._sent += 1
        else:
            self.directory.reject(row, error, time.time())
            segment.mark(row, MOVED)
            self._rejected += 1
        if row.customer_id in self._unknown:
            self._unknown.discard(row.customer_id)
            self._customers.reset()  # all that waits for it is sent now

    def _ask(self, rows: Sequence[Row]) -> Sequence[Receipt | None]:
        """Send the records; each one's receipt, None where there is none to be trusted."""
        self.check_service()
        batch = Batch()
        for row in rows:
            batch.add(row.request_id, row.record)
        ids = batch.request_ids
        return Call(self._transport, self._once, batch.body(), ids, read_verdicts).result()

    def check_service(self) -> None:
        """Raise ConfigurationError if the directory is for another service."""
        # Before each request: accept-service may have changed it, or another client claimed it.
        if refusal := self.directory.claim(self._transport.endpoint):
            raise ConfigurationError(refusal)


def _damaged(row: Row) -> tuple[Row, Receipt]:
    error = BillingError(row.line.decode(errors="backslashreplace"), code="damaged_line")
    return row, Receipt(row.request_id, "rejected", error=error)


# Kept until they are closed or the process ends.
_watched: dict[int, Outbox] = {}


def _warn(text: str, *, at_exit: bool = False) -> None:
    logger.warning(text)
    if not at_exit:
        # The client is a library: most scripts that use it do not set up logging.
        warnings.warn(text, OutboxWarning, stacklevel=4)


def _in_child() -> None:
    for outbox in tuple(_watched.values()):
        # Closes the parent's files, whose locks this process must not keep alive.
        outbox.here()


def _at_exit() -> None:
    deadline = Deadline(EXIT_SECONDS)  # for all outboxes of the process together
    for outbox in tuple(_watched.values()):
        outbox.close(max(0.0, deadline.left()), at_exit=True)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
