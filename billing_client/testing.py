"""A client for the tests of those who use this library: no network, no disk, no threads.

It validates, refuses, replays and conflicts as the real client does with the real service.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import cast

from billing_client.answers import Answer, read_batch
from billing_client.client import BillingClient, check_usage
from billing_client.config import Limits
from billing_client.errors import ConfigurationError
from billing_client.fake.service import MemoryService
from billing_client.outbox import Flushed, Resent, Stats
from billing_client.outbox.delivery import fate
from billing_client.outbox.segment import Row
from billing_client.transport import Transport
from billing_client.usage import Usage


class FakeBillingClient(BillingClient):
    """Records in memory; ``recorded`` is the usage that the service would have, in order.

    outbox             any text, or BILLING_OUTBOX_DIR: without one, enqueue(), flush() and stats()
                       are refused as BillingClient refuses them; nothing is written to disk
    unknown_customers  ids that the service does not know; may be changed at any time
    paused_reason      set it to a text to test your code while nothing can be sent
    """

    def __init__(
        self,
        *,
        outbox: str | os.PathLike[str] | None = None,
        unknown_customers: Iterable[int] = (),
    ) -> None:
        self.unknown_customers = set(unknown_customers)
        self.paused_reason: str | None = None
        self._limits = Limits()
        self._service = MemoryService(unknown_customers=self.unknown_customers)
        self._memory = _Memory(self._service)
        # As much of a transport as calls use.
        self._transport = cast(Transport, self._memory)
        self._outbox = None
        self._has_outbox = bool(os.environ.get("BILLING_OUTBOX_DIR") if outbox is None else outbox)
        self._waiting: list[tuple[Usage, datetime]] = []
        self._counts = {"sent": 0, "rejected": 0}

    @property
    def recorded(self) -> list[Usage]:
        """The usage that was recorded, each fact once."""
        return list(self._service.usages.values())

    def enqueue(self, usage: Usage) -> None:
        """Keep it until flush(), or the end of the with block, as BillingClient does."""
        check_usage(usage)
        self._check_outbox()
        self._memory.check_open()
        self._waiting.append((usage, datetime.now(UTC)))

    def flush(self, timeout: float | None = 10.0) -> Flushed:
        """Record the enqueued usage."""
        self._check_outbox()
        before = dict(self._counts)
        if self.paused_reason is None:
            enqueued, self._waiting = self._waiting, []
            for usage, at in enqueued:
                record = usage.to_json(occurred_at=at)
                (receipt,) = read_batch(self._memory.post(b"[%b]" % record), [usage.request_id])
                row = Row(record, 0, at.timestamp(), stamped=usage.occurred_at is None)
                outcome = fate(row, receipt.error)
                if outcome == "waiting":
                    self._waiting.append((usage, at))
                else:
                    self._counts[outcome] += 1
        return Flushed(
            self._counts["sent"] - before["sent"],
            len(self._waiting),
            self._counts["rejected"] - before["rejected"],
            self.paused_reason,
        )

    def stats(self) -> Stats:
        """The state of the outbox."""
        self._check_outbox()
        now = datetime.now(UTC)
        ages = [(now - enqueued).total_seconds() for _, enqueued in self._waiting]
        return Stats(
            pending=len(self._waiting),
            oldest_seconds=max(0.0, *ages) if ages else None,
            sent=self._counts["sent"],
            rejected=self._counts["rejected"],
            paused_reason=self.paused_reason,
            last_error=self.paused_reason,
        )

    def resend(
        self,
        since: datetime,
        *,
        timeout: float | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Resent:
        """Nothing is lost in memory: say that all was replayed."""
        self._check_outbox()
        return Resent(self._counts["sent"], 0, (), covered_since=since, complete=True)

    def close(self, timeout: float | None = 2.0) -> None:
        """Record the enqueued usage; any later use raises ConfigurationError."""
        if self._has_outbox:
            self.flush(timeout)
        self._transport.close()

    def _check_outbox(self) -> None:
        if not self._has_outbox:
            self._the_outbox()  # raises


class _Memory:
    """A transport to the service in memory."""

    endpoint = "memory"

    def __init__(self, service: MemoryService) -> None:
        self._service = service
        self._closed = False

    def prepare(self, body: bytes, *, trace_id: str) -> bytes:
        self.check_open()
        return body

    def post(self, body: bytes, *, seconds: float = 0.0) -> Answer:
        reply = self._service.answer(body)
        return Answer(reply.status, reply.headers, json.dumps(reply.content).encode())

    def close(self) -> None:
        self._closed = True

    def check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("This billing client is closed; make a new one.")
