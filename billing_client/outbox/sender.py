"""The segments of one process, and the thread that sends them and those of ended processes.

The guard keeps threads apart, and is held only for steps in memory, for a write and for giving a
file up. It does not keep a thread apart from itself: a signal handler or a finalizer may come
between any two steps, and may enqueue, close or fork. So a write says that it is under way
(``_writing``), and no file is given up meanwhile.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from _thread import RLock, allocate_lock, get_ident, start_new_thread
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep

from billing_client.calls import RETRIED
from billing_client.errors import BillingError, CustomerNotFoundError, OutboxFull
from billing_client.outbox.delivery import CLOCK, Ask, Pace, Waiting, deliver, fate
from billing_client.outbox.directory import Directory, is_full
from billing_client.outbox.events import Event, Flushed, Kind, OnEvent, Stats
from billing_client.outbox.segment import DELIVERED, MOVED, Closed, Row, Segment
from billing_client.outbox.sqlite_files import take_over
from billing_client.receipts import Receipt
from billing_client.retries import Deadline

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
# A caller who waits looks so often: a lock to wait for could be left taken by a signal handler.
_LOOK_SECONDS = 0.01


class Sender:
    """Writes and sends for one process; its thread lives until stop() or the end of the process.

    ``open`` has the segments that this process writes to, and one that it adopted.
    """

    def __init__(self, directory: Directory, ask: Ask, tell: OnEvent, *, fsync: bool) -> None:
        self.open: list[Segment] = []
        self.closed = False
        self.paused_reason: str | None = None
        self.last_error: str | None = None
        self.sent = self.rejected = 0
        self.pace, self.waiting = Pace(), Waiting()
        self._directory = directory
        self._ask = ask
        self._tell = tell
        self._fsync = fsync
        # Written in C, so that a KeyboardInterrupt cannot leave it taken.
        self._guard = RLock()
        self._writing = 0
        # Those that are written to, by their kinds.
        self._active: dict[str, Segment] = {}
        # Taken until the thread is to wake up.
        self._sleep = allocate_lock()
        self._sleep.acquire()
        # The thread lingers, or waits after a failure: enqueue need not wake it, but a caller who
        # waits has it hurry.
        self._rests = self._hurries = False
        self._started = self._stopping = False
        self._thread = 0
        # The round of work that began last, and the last one that left nothing to try.
        self._round = self._idle = 0
        self._orphans: Iterator[bool] = iter(())
        self._scan_due = 0.0
        self._reported: set[Path] = set()

    # The files

    def append(self, line: bytes, request_id: str) -> None:
        """Write a record, and have it sent. Raises OutboxFull, Closed or OSError."""
        with self._guard:
            self._check_room(len(line), request_id)
            while True:
                try:
                    self.write("usage", line)
                    break
                except OSError as error:
                    if not is_full(error) or not self._free():
                        raise
        if not self._started:
            self._start()
        if not self._rests:
            self._wake()

    def write(self, kind: str, line: bytes) -> None:
        """Write to the segment of this kind, or a new one. Raises Closed or OSError."""
        with self._guard:
            if self.closed:
                raise Closed
            segment = self._active.get(kind)
            if segment is None or segment.written > LONGEST_SEGMENT:
                segment = self._active[kind] = Segment.create(self._directory.path, kind)
                self.open.append(segment)
            self._writing += 1
            try:
                segment.append(line, fsync=self._fsync)
            finally:
                self._writing -= 1
                if self.closed:  # by a signal handler, which could not give up a file in use
                    self.close()  # type: ignore[unreachable]

    def close(self) -> None:
        """Give all files up; what waits in them stays on disk."""
        self.closed = True
        with self._guard:
            for segment in tuple(self.open):
                self._part_with(segment)

    def abandon(self) -> None:
        """Close the parent's descriptors in a forked child; the parent keeps its locks.

        At once: a call that was interrupted for the fork goes on here too.
        """
        self.closed = True
        for segment in tuple(self.open):
            if segment.file is not None:
                segment.file.close()

    @property
    def pending(self) -> int:
        """The records that wait, also in an adopted segment."""
        return max(0, sum(segment.pending for segment in tuple(self.open)))

    def stats(self) -> Stats:
        """The state of the outbox."""
        ages: list[float] = []
        with suppress(Closed):
            ages = [time.time() - row.at for one in tuple(self.open) for row in one.take(1)]
        return Stats(
            pending=self.pending,
            oldest_seconds=max(0.0, *ages) if ages else None,
            sent=self.sent,
            rejected=self.rejected,
            paused_reason=self.paused_reason,
            last_error=self.last_error,
            next_attempt_seconds=self.pace.left() or None,
            waiting_for=self.waiting.customers(),
        )

    def _check_room(self, size: int, request_id: str) -> None:
        records, size = 0, size + self._directory.others_size
        for segment in self.open:
            if segment.kind != "adopted":
                records += segment.pending
                size += segment.size
        bounds = self._directory.bounds
        if size > bounds.size:
            for path in self._directory.kept():  # which goes first
                self._directory.forget(path)
        if records >= bounds.records or size > bounds.size:
            raise OutboxFull(
                f"The outbox in {self._directory.path} is full: {records} records of this process"
                f" wait, and {size} bytes with those of other processes; call again once some are"
                " sent, nothing was kept.",
                request_ids=[request_id],
            )

    def _free(self) -> bool:
        """Make room on a full disk by removing delivered usage; False if there is none."""
        self._active = {}
        for segment in tuple(self.open):
            self._retire(segment)
        kept = self._directory.kept()
        for path in kept[:1]:
            self._directory.forget(path)
        return bool(kept)

    def _retire(self, segment: Segment) -> None:
        """Put a segment aside that is sent, unless it is written to, small and young."""
        with self._guard:
            small = segment.written < min(SEGMENT_BYTES, self._directory.bounds.keep_bytes)
            young = monotonic() - segment.began < SEGMENT_SECONDS
            in_use = segment in self._active.values() and small and young
            # It may have been appended to, or given up, since the thread looked.
            if not in_use and segment in self.open and segment.is_settled():
                self._part_with(segment)

    def _part_with(self, segment: Segment) -> None:
        if self._writing:
            return
        self.open.remove(segment)
        self._active = {kind: one for kind, one in self._active.items() if one is not segment}
        try:
            segment.close(self._directory.kept_path)
        except OSError as error:  # the next process does it
            logger.warning("outbox: %s could not be put aside: %s", segment.path, error)

    # The thread

    def flush(self, seconds: float | None) -> Flushed:
        """Send what waits; see BillingClient.flush."""
        sent, rejected, deadline = self.sent, self.rejected, Deadline(seconds)
        # Not in the thread, where a finalizer or on_event would wait for itself.
        if not self.closed and self._thread != get_ident():
            self._scan_due = 0.0
            self.pace.hurry()
            self.waiting.hurry()
            next_round = self._round + 1
            self._hurries = True
            self._wake()
            self._start()
            while self._idle < next_round and not self._stopping and (left := deadline.left()) > 0:
                sleep(min(left, _LOOK_SECONDS if self._start() else self.work()))
        return Flushed(self.sent - sent, self.pending, self.rejected - rejected, self.paused_reason)

    def stop(self, seconds: float) -> bool:
        """End the thread after its request; return whether it ended within so many seconds."""
        self._stopping = self._hurries = True
        self._wake()
        deadline = Deadline(seconds)
        # Not in the thread itself, where a finalizer closed the client.
        while self._started and self._thread != get_ident() and deadline.left() > 0:
            sleep(_LOOK_SECONDS)
        return not self._started

    def work(self) -> float:
        """Send at most one batch; return the seconds until there may be more to do."""
        self._hurries = False
        this = self._round = self._round + 1
        if seconds := self.pace.left():
            if self.paused_reason is not None:
                self._idle = this
        elif rows := self._take():
            seconds = self._send(rows)
        else:
            self._settle([])
            self._idle = this
            seconds = min(RESCAN_SECONDS, self.waiting.seconds())
        return seconds

    def _start(self) -> bool:
        """Start the thread, once; False if there can be none.

        Not threading.Thread, whose start() takes a lock that a signal handler may have
        interrupted its own thread under.
        """
        if not self._started:
            self._started = True
            try:
                start_new_thread(self._run, ())
            except BaseException as error:
                # After a KeyboardInterrupt there may be two, of which one ends at once.
                self._started = False
                if not isinstance(error, RuntimeError):  # the system has no thread left
                    raise
        return self._started

    def _run(self) -> None:
        if self._thread:
            return
        self._thread = me = get_ident()
        # As threading.Thread does it, for debuggers and for coverage.
        sys.settrace(threading.gettrace())
        try:
            while not self._stopping and self._thread == me:
                try:
                    seconds = self.work()
                except Closed:
                    seconds = 0.0  # at a fork or at the end
                except Exception as error:
                    # Whatever it is, usage waits behind it.
                    logger.exception("the outbox failed and tries again")
                    self.last_error = str(error)
                    seconds = self.pace.failed(None)
                if seconds and not self.pace.left():
                    self._sleep.acquire(timeout=seconds)
                    seconds = LINGER_SECONDS
                self._rests = True
                self._sleep.acquire(timeout=0.0 if self._hurries else seconds)
                self._rests = False
        finally:
            self._started = False
            self._thread = 0

    def _wake(self) -> None:
        # Not threading.Event, which may deadlock in a signal handler.
        if self._sleep.locked():
            with suppress(RuntimeError):  # another thread was faster
                self._sleep.release()

    # The next records

    def _take(self) -> list[Row]:
        if monotonic() >= self._scan_due:
            self._scan_due = monotonic() + RESCAN_SECONDS
            self._orphans = self._scan()
        while True:
            # One at a time, so that other processes share in them.
            has_adopted = self._has_adopted() or next(self._orphans, False)
            segments = tuple(self.open)
            waits = [segment for segment in segments if segment.kind in {"waiting", "clock"}]
            if rows := self.waiting.take(waits, self.pace.limit):
                return rows
            # Begin with another segment each time, so that none waits for the others.
            first = self._round % (len(segments) or 1)
            for segment in (*segments[first:], *segments[:first]):
                if segment not in waits and (rows := segment.take(self.pace.limit)):
                    return rows
                self._retire(segment)
            if not has_adopted or self._has_adopted():
                return []

    def _has_adopted(self) -> bool:
        return any(segment.kind == "adopted" for segment in self.open)

    def _scan(self) -> Iterator[bool]:
        """Look after the directory; then adopt the segments of ended processes, one by one."""
        own = {segment.path for segment in self.open}
        self._directory.prune(own)
        take_over(self._directory, partial(self.write, "usage"), self._report)
        for path in self._directory.segments():
            try:
                segment = None if path in own else Segment.adopt(path)
            except ValueError as unfit:
                self._report(path, f"is left alone: {unfit}")
            except OSError as error:
                # Without a free descriptor, or before a chown; it is looked at again.
                self._report(path, f"cannot be opened yet: {error}")
            else:
                if segment is not None:
                    self._reported.discard(path)
                    if segment.pending:
                        self._tell(Event("adopted", segment.pending, path.name))
                    with self._guard:
                        self.open.append(segment)
                        if self.closed:
                            self._part_with(segment)
                    yield True

    def _report(self, path: Path, why: str) -> None:
        if path not in self._reported:
            self._reported.add(path)
            self._tell(Event("unusable_file", reason=f"{path.name} {why}."))

    # Their outcome

    def _send(self, rows: list[Row]) -> float:
        try:
            self._settle([(row, _damaged(row)) for row in rows if not row.record])
            sound = [row for row in rows if row.record]
            for answered in deliver(self._ask, sound, self.pace.too_large):
                self._settle(answered)
        except RETRIED as error:
            seconds = self.pace.failed(error.retry_after)
            self.last_error = f"{error} The next attempt is due in {seconds:.0f} s."
            self._tell(Event("failed", len(rows), self.last_error))
            return seconds
        except BillingError as error:
            if self._stopping:
                return 0.0  # the client was closed meanwhile, its connections with it
            if self.paused_reason is None:
                self._tell(Event("paused", reason=str(error)))
            self.paused_reason = self.last_error = str(error)
            self._idle = self._round
            return self.pace.failed(None, passes=False)
        self.pace.succeeded()
        self.last_error = None
        if self.paused_reason is not None:
            self.paused_reason = None
            self._tell(Event("resumed"))
        return 0.0

    def _settle(self, answered: Sequence[tuple[Row, Receipt]]) -> None:
        """Keep these outcomes, and those that a full disk did not let us keep before."""
        held = [one for segment in tuple(self.open) for one in tuple(segment.held.values())]
        for row, receipt in (*held, *answered):
            try:
                self._keep(row, receipt.error)
            except OSError as error:
                row.segment.held[row.offset] = row, receipt
                self.last_error = (
                    f"The outbox cannot note that records were sent ({error}); free space."
                )
                logger.error("%s", self.last_error)  # noqa: TRY400 - where it happened says nothing
        kinds: tuple[Kind, ...] = ("sent", "rejected", "waiting")
        for kind in kinds:
            those = [(row, r.error) for row, r in answered if fate(row, r.error) == kind]
            if those:
                ids = tuple(row.request_id for row, _ in those) if kind != "sent" else ()
                self._tell(Event(kind, len(those), str(those[0][1] or ""), ids))

    def _keep(self, row: Row, error: BillingError | None) -> None:
        what, segment = fate(row, error), row.segment
        if what == "waiting":
            kind = "waiting" if isinstance(error, CustomerNotFoundError) else "clock"
            self.waiting.put_off(row.customer_id if kind == "waiting" else CLOCK)
            if segment.kind != kind:
                # To a file of those that wait, so that this one can be put aside once it is sent.
                self.write(kind, b"\n%b\n" % row.line)
                segment.mark(row, MOVED)
            return
        if what == "sent" or error is None:
            segment.mark(row, DELIVERED)
            self.sent += 1
        else:
            self._directory.reject(
                {
                    "request_id": row.request_id,
                    "status": error.status_code,
                    "code": error.code,
                    "problem": str(error),
                    "rejected_at": time.time(),
                    "at": row.at,
                    "stamped": row.stamped,
                    "usage": row.record.decode(),
                }
            )
            segment.mark(row, MOVED)
            self.rejected += 1
        self.waiting.got_through(row)


def _damaged(row: Row) -> Receipt:
    error = BillingError(row.line.decode(errors="backslashreplace"), code="damaged_line")
    return Receipt(row.request_id, "rejected", error=error)
