"""The thread that sends what waits: this process's own file, and those of processes that died."""

from __future__ import annotations

import _thread
import logging
import sqlite3
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

from billing_client.errors import BillingError, RateLimitedError, UnavailableError
from billing_client.outbox.delivery import Ask, Missing, Pause, deliver
from billing_client.outbox.events import Event, Teller
from billing_client.outbox.files import Files
from billing_client.outbox.pace import Pace
from billing_client.outbox.schema import Row, Verdict
from billing_client.outbox.source import Source
from billing_client.outbox.store import Closed
from billing_client.outbox.wakeup import Wakeup

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


class Drainer:
    """Drains in one thread, which lives until stop() or the end of the process."""

    def __init__(self, files: Files, ask: Ask, teller: Teller) -> None:
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
        self._running = threading.Lock()
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
        except BaseException:  # a KeyboardInterrupt, and nobody knows whether it was started
            self._started = False
            raise

    def stop(self) -> None:
        """Let the thread end as soon as it sends nothing, and nobody wait for it."""
        self._stopping = True
        _finish(tuple(self._flushes))
        self.wakeup.set()
        self._hurry.set()

    def flush(self, seconds: float) -> None:
        """Wait until all was sent, or nothing can be sent, for so many seconds at most."""
        flush = Flush()
        ends = monotonic() + seconds
        try:
            self._flushes.append(flush)
            self.start()
            self.wakeup.set()
            self._hurry.set()
            while not (flush.done or self._stopping) and flush.wakeup.wait(ends - monotonic()):
                pass
        finally:
            with suppress(ValueError):  # interrupted before it was there
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
        if not self._running.acquire(blocking=False):
            return  # two were started at once
        # As threading.Thread does it, for debuggers and for coverage.
        sys.settrace(threading.gettrace())
        try:
            self._work_on()
            # A finalizer may have closed the client in this very thread, at work in a file.
            self._files.let_go()
        finally:
            self._started = False
            self._running.release()

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
        waits = [source.seconds() for source in tuple(self._files.own)]
        return min([LONGEST_REST_SECONDS, *(seconds for seconds in waits if seconds is not None)])

    def _take(self, *, urgent: bool) -> tuple[Source | None, Sequence[Row]]:
        """Take turns between the own files and others', so that neither wait for the other."""
        for _ in range(2):
            self._own_turn = not self._own_turn
            source, rows = self._take_own() if self._own_turn else self._take_orphan(urgent=urgent)
            if source is not None:
                return source, rows
        return None, ()

    def _take_own(self) -> tuple[Source | None, Sequence[Row]]:
        for source in tuple(self._files.own):
            rows = self._files.take(source, self._pace.limit)
            if rows:
                return source, rows
            try:
                self._files.put_in_order(source)
            except sqlite3.Error as error:
                self._disk_is_full(error)
        return None, ()

    def _take_orphan(self, *, urgent: bool) -> tuple[Source | None, Sequence[Row]]:
        return self._files.take_orphan(self._pace.limit, self._teller, urgent=urgent)

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
            self._files.settle(source, verdicts)
        except sqlite3.Error as error:
            self._disk_is_full(error)
        self._tell(verdicts)

    def _disk_is_full(self, error: sqlite3.Error) -> None:
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
