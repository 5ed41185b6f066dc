"""An outbox: usage goes to disk at once, and to the service when that is there.

Each process appends to a segment of its own (segment.py), so that no process ever waits for
another one, stopped or dead. A thread sends its records in order, and marks each record's
outcome in place. A segment that is sent is renamed and kept for a while, so that it can be sent
again if the service is restored from a backup (directory.py). Records that wait for their
customer are copied to a segment of their own, and refused ones to a file with the reason:
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
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice

from billing_client.answers import read_batch, read_verdicts
from billing_client.batches import Batch
from billing_client.calls import RETRIED, Call
from billing_client.config import LONGEST_SECONDS, Bounds, Limits
from billing_client.errors import ConfigurationError, OutboxError, OutboxFull, UnavailableError
from billing_client.outbox.delivery import MOST_RECORDS, deliver, fate
from billing_client.outbox.directory import Directory, is_full, usable
from billing_client.outbox.events import OnEvent, OutboxWarning, Resent, some, tell
from billing_client.outbox.segment import HAS_LOCKS, Closed, Row, Segment, line_of
from billing_client.outbox.sender import Sender
from billing_client.processes import Process
from billing_client.receipts import Receipt
from billing_client.retries import SHORTEST_ATTEMPT, Deadline
from billing_client.transport import Transport
from billing_client.usage import Usage

try:
    import _interpreters as interpreters  # type: ignore[import-not-found]  # from Python 3.13 on
except ImportError:
    import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]

logger = logging.getLogger(__name__)

EXIT_SECONDS = 2.0
Read = Callable[..., Sequence[Receipt | None]]
# The clocks of this host and of the one who says when the backup was made may differ.
_MARGIN = timedelta(minutes=10)


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
        self._directory = Directory(self.path, bounds)
        self._transport = transport
        self._once = Limits(attempts=1, total=min(seconds, LONGEST_SECONDS))
        self._fsync = fsync
        self._tell = partial(tell, on_event)
        self._closed = self._at_exit = False
        self._senders: dict[tuple[int, int], Sender] = {}
        if any(other.path == self.path for other in tuple(_watched.values())):
            _warn(
                f"This process has another open client for the outbox in {self.path}; share one,"
                " or close each: every client has a thread and files of its own."
            )
        self._directory.claim(transport.endpoint)
        self.here()
        _watched[id(self)] = self

    def here(self) -> Sender:
        """The sender of this process. Also notices forks in C, which run no hooks."""
        process = Process.name()
        return self._senders.get(process) or self._begun(process)

    def enqueue(self, usage: Usage) -> None:
        """Write it to disk; see BillingClient.enqueue."""
        stamp = datetime.now(UTC) if usage.occurred_at is None else None
        record = usage.to_json(occurred_at=stamp)
        line = line_of(record, stamped=stamp is not None, at=time.time())
        try:
            while not self._at_exit:
                sender = self.here()
                try:
                    return sender.append(line, usage.request_id)
                except Closed:
                    # Or a signal handler forked, and this is the child; or the interpreter ends.
                    if sender is self.here() and not self._at_exit:
                        raise ConfigurationError(
                            "This billing client is closed; make a new one."
                        ) from None
            # To a file of its own, which the next process finds. Not under the guard: the
            # interpreter may have frozen the thread that holds it.
            Segment.create(self.path, "usage").append(line, fsync=self._fsync)
        except OSError as error:
            kind = OutboxFull if is_full(error) else OutboxError
            raise kind(
                f"The usage could not be written to {self.path} ({error}); free space or correct"
                " the directory, and call again: nothing was kept.",
                request_ids=[usage.request_id],
            ) from error

    def resend(
        self,
        since: datetime,
        timeout: float | None,
        on_progress: Callable[[int], object] | None,
    ) -> Resent:
        """Send once more the usage delivered since then; see BillingClient.resend."""
        if since.utcoffset() is None:
            raise ConfigurationError("since has no time zone; give one, such as 2026-11-22T10:00Z.")
        self._check_service()
        deadline = Deadline(timeout)
        sent = created = 0
        refused: dict[str, None] = {}

        def ask(rows: Sequence[Row]) -> Sequence[Receipt | None]:
            left = min(max(deadline.left(), SHORTEST_ATTEMPT), LONGEST_SECONDS)
            return self._ask(rows, Limits(attempts=2**63, total=left), read_batch)

        records = self._directory.delivered(since - _MARGIN)
        while rows := list(islice(records, MOST_RECORDS)):
            try:
                for answered in deliver(ask, rows, lambda _: None):
                    for row, receipt in answered:
                        if fate(row, receipt.error) == "sent":
                            sent += 1
                            created += receipt.status == "created"
                        else:
                            refused[row.request_id] = None
            except RETRIED as error:
                raise UnavailableError(
                    f"Not all was sent again: {error} Run it once more; what arrived is replayed."
                ) from error
            if on_progress is not None:
                on_progress(sent)
        removed = self._directory.removed_until()
        return Resent(
            sent,
            created,
            tuple(refused),
            self._directory.covered_since(),
            complete=removed is None or removed <= since,
        )

    def close(self, timeout: float | None, *, at_exit: bool = False) -> None:
        """Send what can be sent in time, and leave the rest to the next process."""
        if self._closed:
            return
        sender, deadline = self.here(), Deadline(timeout)
        if sender.pending:
            sender.flush(deadline.left())
        # An answer that comes in time is noted; without that, its records are sent once more.
        ended = sender.stop(deadline.left())
        if at_exit and not ended and interpreters.get_current() != interpreters.get_main():
            # The end of a sub-interpreter aborts the process if a thread is left.
            sender.stop(self._once.total)
            time.sleep(0.05)
        self._at_exit, self._closed = at_exit, True
        pending = sender.pending
        sender.close()
        if not at_exit:
            _watched.pop(id(self), None)
        if pending:
            waits = sender.waiting.customers()
            _warn(
                f"{pending} usage records are not sent yet and wait in {self.path}"
                + (f", some for customers that do not exist ({some(waits)})" if waits else "")
                + "; the next client of this directory sends them, and so does:"
                f" billing-client --outbox {self.path} drain",
                at_exit=at_exit,
            )

    def _begun(self, process: tuple[int, int]) -> Sender:
        """What a process must not share with its parent."""
        ask = partial(self._ask, limits=self._once, read=read_verdicts)
        sender = Sender(self._directory, ask, self._tell, fsync=self._fsync)
        sender.closed = self._closed
        # Many threads of a child may be the first at once, and all have to get the same.
        here = self._senders.setdefault(process, sender)
        for other in tuple(self._senders):
            of_parent = self._senders.pop(other, None) if other != process else None
            if of_parent is not None:
                of_parent.abandon()
        return here

    def _ask(self, rows: Sequence[Row], limits: Limits, read: Read) -> Sequence[Receipt | None]:
        """Send the records; each one's receipt, None where there is none to be trusted."""
        self._check_service()
        batch = Batch()
        for row in rows:
            batch.add(row.request_id, row.record)
        ids = batch.request_ids
        body, readable = batch.body(), partial(read, request_ids=ids)
        return Call(self._transport, limits, body, ids, readable).result()

    def _check_service(self) -> None:
        # Before each request: accept-service may have changed it, or another client claimed it.
        if refusal := self._directory.claim(self._transport.endpoint):
            raise ConfigurationError(refusal)


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
