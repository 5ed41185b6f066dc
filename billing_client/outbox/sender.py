"""The segments of one process, and the thread that sends them and those of ended processes.

The guard keeps threads apart, and is held only for steps in memory and for giving a file up. It
does not keep a thread apart from itself: a signal handler or a finalizer may come between any two
steps, and may enqueue, close or fork. So an append says that it is under way (``writers``), and a
file that is appended to keeps its name.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from _thread import RLock, allocate_lock, get_ident, start_new_thread
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

from billing_client.config import Bounds
from billing_client.errors import (
    BillingError,
    OutboxFull,
    RateLimitedError,
    UnavailableError,
)
from billing_client.outbox.delivery import Ask, Missing, Pause, Verdict, deliver
from billing_client.outbox.directory import Directory, is_full
from billing_client.outbox.events import Event, EventLog
from billing_client.outbox.schedule import CLOCK, Pace, Waiting
from billing_client.outbox.segment import DELIVERED, MOVED, Closed, Row, Segment, Unfit, line_of
from billing_client.outbox.sqlite_files import take_over

# All locks and the start of the thread are bound above, at one moment: gevent may replace them
# later, and its locks and the interpreter's cannot wait for each other.

logger = logging.getLogger(__name__)

# A segment is put aside once it is sent and has this size or age; in an outage it grows on.
SEGMENT_BYTES = 2 * 1024**2
SEGMENT_SECONDS = 24 * 3600.0
LONGEST_SEGMENT = 16 * 1024**2
RESCAN_SECONDS = 30.0
# Records that come one by one are sent together, and not each for itself.
LINGER_SECONDS = 0.2
LONGEST_REST_SECONDS = 30.0
_LONGEST_WAIT = 3600.0


class Files:
    """The segments that this process writes to, and one that it adopted."""

    def __init__(self, directory: Directory, bounds: Bounds, *, fsync: bool, closed: bool) -> None:
        # Written in C, so that a KeyboardInterrupt cannot leave it taken.
        self.guard = RLock()
        self.directory = directory
        self.open: list[Segment] = []
        self.closed = closed
        self._bounds = bounds
        self._fsync = fsync
        self._active: dict[str, Segment] = {}
        self._disk_was_full = False

    def append(self, line: bytes, request_id: str) -> None:
        """Write a record. Raises OutboxFull, Closed or OSError."""
        with self.guard:
            self._check_room(len(line), request_id)
            while True:
                try:
                    self.append_to("usage", line)
                except OSError as error:
                    if not is_full(error) or not self._free():
                        raise
                else:
                    return

    def append_to(self, kind: str, line: bytes) -> Segment:
        """Write to the segment of this kind, or a new one. Raises Closed or OSError."""
        with self.guard:
            if self.closed:
                raise Closed
            segment = self._active.get(kind)
            if segment is None or segment.written > LONGEST_SEGMENT:
                segment = Segment.create(self.directory.path, kind)
                self.open.append(segment)
                self._active[kind] = segment
            try:
                segment.append(line, fsync=self._fsync)
            finally:
                self._let_go_if_closed()
            return segment

    def adopt(self, segment: Segment) -> None:
        """Send the segment of an ended process; nothing is taken once this one is closed."""
        with self.guard:
            self.open.append(segment)
            self._let_go_if_closed()

    def retire(self, segment: Segment) -> None:
        """Put a segment aside that is sent, if it is large or old, or the disk was full."""
        with self.guard:
            young = monotonic() - segment.began < SEGMENT_SECONDS
            small = segment.written < min(SEGMENT_BYTES, self.directory.keep_bytes)
            in_use = segment in self._active.values() and young and small
            # It may have been appended to, or given up, since the thread looked.
            settled = segment in self.open and segment.is_settled()
            if settled and (self._disk_was_full or not in_use):
                self._part_with(segment)
                self._disk_was_full = False

    def let_go(self) -> None:
        """Give up every segment that is not written to; what waits in it stays on disk."""
        with self.guard:
            for segment in tuple(self.open):
                if not segment.writers:
                    self._part_with(segment)

    def close(self) -> None:
        """Give up all for good."""
        self.closed = True
        self.let_go()

    def abandon(self) -> None:
        """Close the copies of a parent's descriptors; the parent keeps its locks."""
        self.closed = True  # for a call that was interrupted for the fork, and goes on here too
        for segment in tuple(self.open):
            segment.abandon()

    def oldest(self) -> float | None:
        """When the oldest record of this process was enqueued, in seconds since 1970."""
        with suppress(Closed):
            return min((row.at for one in tuple(self.open) for row in one.take(1)), default=None)
        return None

    def _let_go_if_closed(self) -> None:
        if self.closed:  # by a signal handler, which could not give up a file in use
            self.let_go()

    def _part_with(self, segment: Segment) -> None:
        self.open.remove(segment)
        self._active = {kind: one for kind, one in self._active.items() if one is not segment}
        try:
            if segment.is_settled():
                segment.seal(self.directory.kept_path)
        except OSError as error:  # the next process does it
            logger.warning("outbox: %s could not be put aside: %s", segment.path, error)
        segment.close()

    def _check_room(self, size: int, request_id: str) -> None:
        directory, records = self.directory, 0
        size += directory.others_size
        for segment in self.open:
            if not segment.adopted:
                records += segment.pending
                size += segment.size
        while size + directory.kept_size > self._bounds.size and directory.make_room():
            pass
        if records >= self._bounds.records or size > self._bounds.size:
            raise OutboxFull(
                f"The outbox in {directory.path} is full: {records} records of this process wait,"
                f" and {size} bytes with those of other processes; call again once some are sent,"
                " nothing was kept.",
                request_ids=[request_id],
            )

    def _free(self) -> bool:
        """Make room on a full disk by removing delivered usage; False if there is none."""
        self._disk_was_full = True
        if self.directory.make_room():
            return True
        for segment in tuple(self.open):
            if segment.is_settled():
                self._part_with(segment)
        return self.directory.make_room()


class Wakeup:
    """An event that may be set from a signal handler, which threading.Event may deadlock in."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let one wait() return, this one or the next."""
        if self._lock.locked():
            with suppress(RuntimeError):  # another thread was faster
                self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait for an hour at most; return whether set() was called."""
        return self._lock.acquire(timeout=min(max(0.0, seconds), _LONGEST_WAIT))


class Flush(Wakeup):
    """A caller that waits until everything was tried."""

    tried = False
    done = False

    def finish(self) -> None:
        """Let the caller go."""
        self.done = True
        self.set()


class Sender:
    """Sends in one thread, which lives until stop() or the end of the process."""

    def __init__(self, files: Files, ask: Ask, events: EventLog) -> None:
        self.paused_reason: str | None = None
        self.last_error: str | None = None
        self.wakeup = Wakeup()
        self.waiting = Waiting()
        self.pace = Pace()
        self.sent = 0
        self.rejected = 0
        self._files = files
        self._ask = ask
        self._events = events
        self._hurry = Wakeup()
        self._flushes: list[Flush] = []
        self._started = False
        self._running = allocate_lock()
        self._thread = 0
        self._stopping = False
        self._turn = 0
        self._found: list[Path] = []
        self._scan_due = 0.0
        self._reported: set[Path] = set()
        self._unsettled: list[Verdict] = []

    def start(self) -> bool:
        """Start the thread, once; False if there can be none.

        Not threading.Thread, whose start() takes a lock that a signal handler may have
        interrupted its own thread under.
        """
        if self._started:
            return True
        self._started = True
        try:
            start_new_thread(self._run, ())
        except RuntimeError:  # the interpreter is ending, or the system has no thread left
            self._started = False
        except BaseException:  # a KeyboardInterrupt; perhaps it was started, and one will end
            self._started = False
            raise
        return self._started

    def stop(self, seconds: float) -> bool:
        """End the thread after its request; return whether it ended within so many seconds."""
        self._stopping = True
        _finish(tuple(self._flushes))
        self.wakeup.set()
        self._hurry.set()
        if self._thread == get_ident():
            return False  # a finalizer closed the client in the thread itself
        ended = self._running.acquire(timeout=min(max(0.0, seconds), _LONGEST_WAIT))
        if ended:
            self._running.release()
        return ended

    def flush(self, seconds: float) -> None:
        """Wait until all was sent, or nothing can be sent, for so many seconds at most."""
        if self._thread == get_ident():
            return  # a finalizer or on_event, which the thread would wait for
        flush = Flush()
        ends = monotonic() + seconds
        try:
            self._flushes.append(flush)
            self._scan_due = 0.0
            self.waiting.hurry()
            started = self.start()
            self.wakeup.set()
            self._hurry.set()
            while not (flush.done or self._stopping):
                left = ends - monotonic()
                rest = 0.0 if started else self.work()
                waited = left if started else min(rest, left)
                if not flush.wait(waited) and waited == left <= _LONGEST_WAIT:
                    break
        finally:
            with suppress(ValueError):  # interrupted before it was there
                self._flushes.remove(flush)

    def work(self) -> float:
        """Send at most one batch; return the seconds until there may be more to do."""
        flushes = tuple(self._flushes)
        left = self.pace.left(urgent=any(not flush.tried for flush in flushes))
        if left:
            if self.paused_reason is not None:
                _finish(flushes)
            return left
        rows = self._take()
        if not rows:
            self._settle(())
            _finish(flushes)
            return min(LONGEST_REST_SECONDS, self.waiting.seconds() or LONGEST_REST_SECONDS)
        return self._send(rows, flushes)

    def _run(self) -> None:
        if not self._running.acquire(blocking=False):
            return  # two were started at once
        self._thread = get_ident()
        # As threading.Thread does it, for debuggers and for coverage.
        sys.settrace(threading.gettrace())
        try:
            while not self._stopping:
                try:
                    seconds = self.work()
                except Closed:
                    seconds = 0.0  # at a fork or at the end
                except Exception as error:
                    # Whatever it is, usage waits behind it.
                    logger.exception("the outbox failed and tries again")
                    self.last_error = str(error)
                    seconds = self.pace.failed(None)
                self._wait(seconds)
        finally:
            self._started = False
            self._thread = 0
            self._running.release()

    def _wait(self, seconds: float) -> None:
        if seconds <= 0 or self._stopping:
            return
        if self.pace.left(urgent=False):
            self._hurry.wait(seconds)
        elif self.wakeup.wait(seconds) and not self._flushes:
            self._hurry.wait(LINGER_SECONDS)

    # The next records

    def _take(self) -> list[Row]:
        rows = self.waiting.take(self.pace.limit)
        while not rows:
            self._adopt()
            # Begin with another segment each time, so that none waits for the others.
            self._turn += 1
            segments = tuple(self._files.open)
            first = self._turn % (len(segments) or 1)
            for segment in (*segments[first:], *segments[:first]):
                rows = [] if segment.waits else segment.take(self.pace.limit)
                if rows:
                    return rows
                self._files.retire(segment)
            if not self._found or self._has_adopted():
                break
        return rows

    def _has_adopted(self) -> bool:
        return any(segment.adopted for segment in self._files.open)

    def _adopt(self) -> None:
        """Open the next segment of an ended process, unless one is open."""
        if not self._found and monotonic() >= self._scan_due:
            self._scan()
        while self._found and not self._has_adopted():
            path = self._found.pop(0)
            try:
                segment = Segment.adopt(path)
            except Unfit as unfit:
                self._report(path, f"is left alone: {unfit}")
            except OSError as error:
                # Without a free descriptor, or before a chown; it is looked at again.
                self._report(path, f"cannot be opened yet: {error}")
            else:
                if segment is not None:
                    self._reported.discard(path)
                    self._files.adopt(segment)
                    if segment.pending:
                        self._events.tell(Event("adopted", segment.pending, path.name))

    def _scan(self) -> None:
        self._scan_due = monotonic() + RESCAN_SECONDS
        directory = self._files.directory
        ours = {segment.path for segment in self._files.open}
        directory.prune(ours)
        take_over(directory, lambda line: self._files.append_to("usage", line), self._report)
        self._found = [path for path in directory.segments() if path not in ours]

    def _report(self, path: Path, why: str) -> None:
        if path not in self._reported:
            self._reported.add(path)
            self._events.tell(Event("unusable_file", reason=f"{path.name} {why}."))

    # Their outcome

    def _send(self, rows: list[Row], flushes: tuple[Flush, ...]) -> float:
        try:
            self._settle([_damaged(row) for row in rows if not row.record])
            rows = [row for row in rows if row.record]
            for verdicts in deliver(self._ask, rows, self.pace.too_large):
                self._settle(verdicts)
        except Pause as pause:
            return self._pause(pause, flushes)
        except (UnavailableError, RateLimitedError, Missing) as error:
            return self._fail(error, len(rows), flushes)
        self.pace.succeeded()
        self.last_error = None
        if self.paused_reason is not None:
            self.paused_reason = None
            self._events.tell(Event("resumed"))
        return 0.0

    def _settle(self, verdicts: Sequence[Verdict]) -> None:
        """Keep these verdicts, and those that a full disk did not let us keep before."""
        left = []
        for verdict in (*self._unsettled, *verdicts):
            try:
                self._keep(verdict)
            except OSError as error:
                verdict.row.segment.skip(verdict.row)
                left.append(verdict)
                self.last_error = (
                    f"The outbox cannot note that records were sent ({error}); free space."
                )
                logger.error("%s", self.last_error)  # noqa: TRY400 - where it happened says nothing
        self._unsettled = left
        self._tell(verdicts)

    def _keep(self, verdict: Verdict) -> None:
        row, segment = verdict.row, verdict.row.segment
        if verdict.fate == "delivered":
            segment.mark(row, DELIVERED)
            self.sent += 1
            self.waiting.got_through(row.customer_id)
        elif verdict.fate == "rejected":
            self._files.directory.reject(
                {
                    "request_id": row.request_id,
                    "status": verdict.status,
                    "code": verdict.code,
                    "problem": verdict.problem,
                    "rejected_at": time.time(),
                    "at": row.at,
                    "stamped": row.stamped,
                    "usage": row.record.decode(),
                }
            )
            segment.mark(row, MOVED)
            self.rejected += 1
            self.waiting.got_through(row.customer_id)
        elif row.queue is not None:
            self.waiting.still_waits(row.queue)
        else:
            # To a file of those that wait, so that this one can be put aside once it is sent.
            line = line_of(row.record, stamped=row.stamped, at=row.at)
            customer = CLOCK if verdict.fate == "in_the_future" else row.customer_id
            self.waiting.add(customer, self._files.append_to("waiting", line), len(line))
            segment.mark(row, MOVED)

    def _tell(self, verdicts: Sequence[Verdict]) -> None:
        for kind, fates in (
            ("sent", {"delivered"}),
            ("rejected", {"rejected"}),
            ("waiting", {"unknown_customer", "in_the_future"}),
        ):
            those = [verdict for verdict in verdicts if verdict.fate in fates]
            if those:
                ids = tuple(v.row.request_id for v in those) if kind != "sent" else ()
                self._events.tell(Event(kind, len(those), those[0].problem, ids))  # type: ignore[arg-type]

    def _fail(self, error: Exception, records: int, flushes: tuple[Flush, ...]) -> float:
        retry_after = error.retry_after if isinstance(error, BillingError) else None
        seconds = self.pace.failed(retry_after)
        self.last_error = f"{error} The next attempt is due in {seconds:.0f} s."
        for flush in flushes:
            flush.tried = True
        self._events.tell(Event("failed", records, self.last_error))
        return seconds

    def _pause(self, pause: Pause, flushes: tuple[Flush, ...]) -> float:
        if self._stopping:
            return 0.0  # the client was closed meanwhile, its connections with it
        if self.paused_reason is None:
            self._events.tell(Event("paused", reason=str(pause)))
        self.paused_reason = self.last_error = str(pause)
        seconds = self.pace.paused()
        _finish(flushes)
        return seconds


def _damaged(row: Row) -> Verdict:
    return Verdict(
        row, "rejected", None, "damaged_line", row.line.decode(errors="backslashreplace")
    )


def _finish(flushes: Sequence[Flush]) -> None:
    for flush in flushes:
        flush.finish()
