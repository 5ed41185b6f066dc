"""An outbox: usage goes to disk at once, and to the service when that is there.

Each process appends to a segment of its own (segment.py), so that no process ever waits for
another one, stopped or dead. A thread sends its records in order, and marks each record's
outcome in place. A segment that is sent is renamed and kept for a while, so that it can be sent
again if the service is restored from a backup (directory.py, resend.py). Records that wait for
their customer are copied to a segment of their own, and refused ones to a file with the reason:
neither holds its neighbours back. The segments of processes that ended are found by their lock,
and sent by the thread of any process that lives, never in a caller's call (sender.py).
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import monotonic
from uuid import uuid4

from billing_client.answers import read_verdicts
from billing_client.batches import Batch
from billing_client.config import Bounds
from billing_client.errors import ConfigurationError, OutboxError, OutboxFull
from billing_client.outbox.directory import Directory, is_full, usable
from billing_client.outbox.events import EventLog, Flushed, OnEvent, OutboxWarning, Stats, some
from billing_client.outbox.resend import Resent, resend
from billing_client.outbox.segment import HAS_LOCKS, Closed, Row, Segment, line_of
from billing_client.outbox.sender import Files, Sender
from billing_client.receipts import Receipt
from billing_client.transport import Transport
from billing_client.usage import Usage

try:
    import _interpreters as interpreters  # type: ignore[import-not-found]  # from Python 3.13 on
except ImportError:
    import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]

logger = logging.getLogger(__name__)

EXIT_SECONDS = 2.0
FOREVER = float("inf")


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
        self.closed = False
        self._directory = Directory(self.path, bounds.keep_days, bounds.keep_bytes)
        self._url = transport.endpoint
        self._transport = transport
        self._seconds = seconds
        self._fsync = fsync
        self._bounds = bounds
        self._events = EventLog(on_event)
        self._at_exit = False
        self._processes: dict[tuple[int, int], tuple[Files, Sender]] = {}
        if any(other.path == self.path for other in tuple(_watched.values())):
            _warn(
                f"This process has another open client for the outbox in {self.path}; share one,"
                " or close each: every client has a thread and files of its own."
            )
        self._directory.claim(self._url)
        self.here()
        _watched[id(self)] = self

    def enqueue(self, usage: Usage) -> None:
        """Write it to disk; see BillingClient.enqueue."""
        stamp = datetime.now(UTC) if usage.occurred_at is None else None
        line = line_of(usage.to_json(occurred_at=stamp), stamped=stamp is not None)
        try:
            self._write(line, usage.request_id)
        except OSError as error:
            kind = OutboxFull if is_full(error) else OutboxError
            raise kind(
                f"The usage could not be written to {self.path} ({error}); free space or correct"
                " the directory, and call again: nothing was kept.",
                request_ids=[usage.request_id],
            ) from error

    def flush(self, timeout: float | None) -> Flushed:
        """Send what waits; see BillingClient.flush."""
        files, sender = self.here()
        sent, rejected = sender.sent, sender.rejected
        if not self.closed:
            sender.flush(FOREVER if timeout is None else timeout)
        return Flushed(
            sender.sent - sent, _pending(files), sender.rejected - rejected, sender.paused_reason
        )

    def stats(self) -> Stats:
        """The state of the outbox."""
        files, sender = self.here()
        oldest = files.oldest()
        return Stats(
            pending=_pending(files),
            oldest_seconds=None if oldest is None else max(0.0, time.time() - oldest),
            sent=sender.sent,
            rejected=sender.rejected,
            paused_reason=sender.paused_reason,
            last_error=sender.last_error,
            next_attempt_seconds=sender.pace.left(urgent=False) or None,
            waiting_for=sender.waiting.customers(),
        )

    def resend(
        self,
        since: datetime,
        timeout: float | None,
        on_progress: Callable[[int], object] | None,
    ) -> Resent:
        """Send once more the usage delivered since then; see BillingClient.resend."""
        self._check_service()
        seconds = FOREVER if timeout is None else timeout
        return resend(self._directory, self._ask, since, seconds, on_progress)

    def close(self, timeout: float | None, *, at_exit: bool = False) -> None:
        """Send what can be sent in time, and leave the rest to the next process."""
        if self.closed:
            return
        files, sender = self.here()
        ends = monotonic() + (FOREVER if timeout is None else timeout)
        if _pending(files):
            sender.flush(ends - monotonic())
        # An answer that comes in time is noted; without that, its records are sent once more.
        ended = sender.stop(ends - monotonic())
        if at_exit and not ended and _is_subinterpreter():
            # The end of a sub-interpreter aborts the process if a thread is left.
            sender.stop(self._seconds)
            time.sleep(0.05)
        self._at_exit = at_exit
        self.closed = True
        pending = _pending(files)
        files.close()
        if not at_exit:
            _watched.pop(id(self), None)
        if pending:
            waits = sender.waiting.customers()
            text = (
                f"{pending} usage records are not sent yet and wait in {self.path}"
                + (f", some for customers that do not exist ({some(waits)})" if waits else "")
                + "; the next client of this directory sends them, and so does:"
                f" billing-client --outbox {self.path} drain"
            )
            if at_exit:
                logger.warning(text)
            else:
                _warn(text)

    def here(self) -> tuple[Files, Sender]:
        """The files and thread of this process. Also notices forks in C, which run no hooks."""
        process = (os.getpid(), _Forks.number)
        return self._processes.get(process) or self._begun(process)

    def _begun(self, process: tuple[int, int]) -> tuple[Files, Sender]:
        """The parts that a process must not share with its parent."""
        files = Files(self._directory, self._bounds, fsync=self._fsync, closed=self.closed)
        sender = Sender(files, self._ask, self._events)
        # Many threads of a child may be the first at once, and all have to get the same.
        here = self._processes.setdefault(process, (files, sender))
        for other in tuple(self._processes):
            of_parent = self._processes.pop(other, None) if other != process else None
            if of_parent is not None:
                of_parent[0].abandon()
        return here

    def _write(self, line: bytes, request_id: str) -> None:
        while not self._at_exit:
            files, sender = self.here()
            try:
                files.append(line, request_id)
            except Closed:
                if files is self.here()[0] and not self._at_exit:
                    raise ConfigurationError(
                        "This billing client is closed; make a new one."
                    ) from None
                # A signal handler forked, and this is the child; or the interpreter ends.
            else:
                sender.start()
                sender.wakeup.set()
                return
        # To a file of its own, which the next process finds. Not under the guard: the interpreter
        # may have frozen the thread that holds it.
        segment = Segment.create(self.path, "usage")
        try:
            segment.append(line, fsync=self._fsync)
        finally:
            segment.close()

    def _check_service(self) -> None:
        # Before each request: accept-service may have changed it, or another client claimed it.
        refusal = self._directory.claim(self._url)
        if refusal:
            raise ConfigurationError(refusal)

    def _ask(self, rows: Sequence[Row]) -> Sequence[Receipt | None]:
        """Send the records once; each one's receipt, None where there is none to be trusted."""
        self._check_service()
        batch = Batch()
        for row in rows:
            batch.add(row.request_id, row.record)
        request = self._transport.prepare(batch.body(), trace_id=uuid4().hex)
        answer = self._transport.post(request, seconds=self._seconds)
        return read_verdicts(answer, batch.request_ids)


def _pending(files: Files) -> int:
    return sum(segment.pending for segment in files.open)


class _Forks:
    """Tells a process from its ancestors, also from one whose pid came round again."""

    number = 0


# Kept until they are closed or the process ends.
_watched: dict[int, Outbox] = {}


def _warn(text: str) -> None:
    logger.warning(text)
    # The client is a library: most scripts that use it do not set up logging.
    warnings.warn(text, OutboxWarning, stacklevel=4)


def _in_child() -> None:
    _Forks.number += 1
    for outbox in tuple(_watched.values()):
        # Closes the parent's files, whose locks this process must not keep alive.
        outbox.here()


def _at_exit() -> None:
    ends = monotonic() + EXIT_SECONDS  # for all outboxes of the process together
    for outbox in tuple(_watched.values()):
        outbox.close(max(0.0, ends - monotonic()), at_exit=True)


def _is_subinterpreter() -> bool:
    return bool(interpreters.get_current() != interpreters.get_main())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
