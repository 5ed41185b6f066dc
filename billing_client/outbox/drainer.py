"""The thread that sends what waits: this process's own file, and those of processes that died."""

from __future__ import annotations

import _thread
import logging
import sqlite3
import sys
import threading
from collections.abc import Sequence
from time import monotonic
from typing import Protocol

from billing_client.errors import BillingError, RateLimitedError, UnavailableError
from billing_client.outbox.delivery import Ask, Missing, Pause, deliver
from billing_client.outbox.events import Event, Teller
from billing_client.outbox.guard import Guard, Wakeup
from billing_client.outbox.orphans import Orphans
from billing_client.outbox.pace import Pace
from billing_client.outbox.schema import Row, Verdict
from billing_client.outbox.source import Source
from billing_client.outbox.store import Closed

logger = logging.getLogger(__name__)

# Records that come one by one are sent together, and not each for itself.
LINGER_SECONDS = 0.2
LONGEST_REST_SECONDS = 30.0


class Flush:
    """Somebody who waits until everything was tried."""

    def __init__(self) -> None:
        self.wakeup = Wakeup()
        self.tried = False
        self.done = False

    def finish(self) -> None:
        """Let them go."""
        self.done = True
        self.wakeup.set()


class Files(Protocol):
    """What is drained, as the outbox of this process knows it."""

    guard: Guard
    orphans: Orphans

    @property
    def own(self) -> Source | None:
        """This process's own file, if it has one at the moment."""

    def retire(self) -> None:
        """Put an own file aside that needs no more sending."""

    def give_up(self, why: str) -> None:
        """Leave the own file as it is, damaged, and begin another."""


class Drainer:
    """Drains in one thread, which lives until stop() or the end of the process."""

    def __init__(self, files: Files, ask: Ask, teller: Teller) -> None:
        self.sent = 0
        self.rejected = 0
        self.paused_reason: str | None = None
        self.last_error: str | None = None
        self.wakeup = Wakeup()
        self._hurry = Wakeup()
        self._files = files
        self._ask = ask
        self._teller = teller
        self._pace = Pace()
        self._flushes: list[Flush] = []
        self._started = False
        self._stopping = False
        self._own_turn = False

    def start(self) -> None:
        """Start the thread, once; leave the files to the next process if there can be none.

        Not threading.Thread, whose start() takes a lock that a signal handler may have
        interrupted somebody under.
        """
        if self._started:
            return
        self._started = True
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # the interpreter is ending, or the system has no thread left
            self._started = False

    def stop(self) -> None:
        """Let the thread end as soon as it sends nothing."""
        self._stopping = True
        self.wakeup.set()
        self._hurry.set()

    def flush(self, seconds: float) -> None:
        """Wait until all was sent, or nothing can be sent, for so many seconds at most."""
        flush = Flush()
        ends = monotonic() + seconds
        self._flushes.append(flush)
        try:
            self.start()
            self.wakeup.set()
            self._hurry.set()
            while not (flush.done or self._stopping) and flush.wakeup.wait(ends - monotonic()):
                pass
        finally:
            self._flushes.remove(flush)

    def work(self) -> float:
        """Send at most one batch; return the seconds until there may be more to do."""
        flushes = tuple(self._flushes)
        urgent = any(not flush.tried for flush in flushes)
        left = self._pace.left(urgent=urgent)
        if left:
            if self.paused_reason is not None:
                _finish(flushes)
            return left
        source, rows = self._take(urgent=bool(flushes))
        self._teller.catch_up()
        if source is None:
            _finish(flushes)
            return self._rest()
        return self._send(source, rows, flushes)

    def _run(self) -> None:
        # As threading.Thread does it, for debuggers and for coverage.
        sys.settrace(threading.gettrace())
        self._work_on()

    def _work_on(self) -> None:
        while not self._stopping:
            try:
                seconds = self.work()
            except Exception as error:
                # Whatever it is, usage waits behind it.
                logger.exception("the outbox failed and tries again")
                self.last_error = str(error)
                seconds = self._pace.failed(None)
            self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        if seconds <= 0 or self._stopping:
            return
        if self._pace.left(urgent=False):
            self._hurry.wait(seconds)
        elif self.wakeup.wait(seconds) and not self._flushes:
            self._hurry.wait(LINGER_SECONDS)

    def _rest(self) -> float:
        source = self._files.own
        waits = [LONGEST_REST_SECONDS, source.seconds() if source else None]
        return min(seconds for seconds in waits if seconds is not None)

    def _take(self, *, urgent: bool) -> tuple[Source | None, Sequence[Row]]:
        """Take turns between the own file and others', so that neither waits for the other."""
        for _ in range(2):
            self._own_turn = not self._own_turn
            if self._own_turn:
                source, rows = self._files.guard.run(self._take_own)
            else:
                source, rows = self._take_orphan(urgent=urgent)
            if source is not None:
                return source, rows
        return None, ()

    def _take_own(self) -> tuple[Source | None, Sequence[Row]]:
        source = self._files.own
        try:
            rows = source.take(self._pace.limit) if source else []
        except sqlite3.DatabaseError as error:
            self._files.give_up(str(error))
            return None, ()
        if rows:
            return source, rows
        if source is not None:
            self._put_in_order(source)
        return None, ()

    def _put_in_order(self, source: Source) -> None:
        try:
            source.settle(())
            source.store.tidy()
        except sqlite3.OperationalError as error:
            self._disk_is_full(error)
        self._files.retire()

    def _take_orphan(self, *, urgent: bool) -> tuple[Source | None, Sequence[Row]]:
        return self._files.guard.run(
            self._files.orphans.take, self._pace.limit, self._teller, urgent=urgent
        )

    def _send(self, source: Source, rows: Sequence[Row], flushes: tuple[Flush, ...]) -> float:
        try:
            for verdicts in deliver(self._ask, rows, self._pace.too_large):
                self._settle(source, verdicts)
        except Pause as pause:
            return self._pause(pause, flushes)
        except (UnavailableError, RateLimitedError, Missing) as error:
            return self._fail(error, len(rows), flushes)
        except Closed:
            return 0.0  # at a fork or at the end; it stays on disk and is sent again
        self._pace.succeeded()
        if self.paused_reason is not None:
            self.paused_reason = None
            self._teller.tell(Event("resumed"))
        self.last_error = None
        return 0.0

    def _settle(self, source: Source, verdicts: Sequence[Verdict]) -> None:
        try:
            self._files.guard.run(self._count_settled, source, verdicts)
        except sqlite3.OperationalError as error:
            self._disk_is_full(error)
        self._tell(verdicts)

    def _count_settled(self, source: Source, verdicts: Sequence[Verdict]) -> None:
        if not source.store.is_open:
            raise Closed
        self.sent += sum(verdict.fate == "delivered" for verdict in verdicts)
        self.rejected += sum(verdict.fate == "rejected" for verdict in verdicts)
        source.settle(verdicts)
        source.store.tidy()

    def _disk_is_full(self, error: sqlite3.OperationalError) -> None:
        self.last_error = (
            f"The outbox cannot note what was delivered ({error}); free space in its directory."
        )
        logger.error(self.last_error)

    def _tell(self, verdicts: Sequence[Verdict]) -> None:
        for kind, fates in (
            ("sent", {"delivered"}),
            ("rejected", {"rejected"}),
            ("waiting", {"unknown_customer", "in_the_future"}),
        ):
            those = [verdict for verdict in verdicts if verdict.fate in fates]
            if those:
                self._teller.tell(Event(kind, len(those), those[0].problem))  # type: ignore[arg-type]

    def _fail(self, error: Exception, records: int, flushes: tuple[Flush, ...]) -> float:
        self.last_error = str(error)
        retry_after = error.retry_after if isinstance(error, BillingError) else None
        seconds = self._pace.failed(retry_after)
        _tried(flushes)
        self._teller.tell(Event("failed", records, str(error)))
        return seconds

    def _pause(self, pause: Pause, flushes: tuple[Flush, ...]) -> float:
        if self._stopping:
            return 0.0  # the client was closed meanwhile, its connections with it
        if self.paused_reason is None:
            self._teller.tell(Event("paused", reason=str(pause)))
        self.paused_reason = self.last_error = str(pause)
        seconds = self._pace.paused()
        _finish(flushes)
        return seconds


def _finish(flushes: Sequence[Flush]) -> None:
    for flush in flushes:
        flush.finish()


def _tried(flushes: Sequence[Flush]) -> None:
    for flush in flushes:
        flush.tried = True
