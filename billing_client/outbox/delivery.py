"""What becomes of each record, and when the next attempt is due; knows neither files nor threads.

A refusal of a whole request is taken apart until the culprit is alone. It counts against that
record only if others went through beside it: where everything is refused, the fault lies in the
address, the key or a proxy, and not in a day of usage.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from random import uniform
from time import monotonic
from typing import Literal

from billing_client.batches import MOST_RECORDS
from billing_client.calls import RETRIED
from billing_client.errors import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    ConflictError,
    CustomerNotFoundError,
    UnavailableError,
    ValidationError,
)
from billing_client.outbox.segment import Row
from billing_client.receipts import Receipt

# From the moment of enqueue, whichever process sends.
UNKNOWN_CUSTOMER_SECONDS = 7 * 24 * 3600.0
# Enough to take a full batch apart, and to see that nothing of it goes through.
_MOST_REFUSALS = 80

# How many records are sent after a failure; four times as many with each success.
PROBE_RECORDS = 8

Fate = Literal["sent", "rejected", "waiting"]


def deliver(
    ask: Callable[[Sequence[Row]], Sequence[Receipt | None]], rows: Sequence[Row]
) -> Iterator[list[tuple[Row, Receipt]]]:
    """The receipts of the records, as the answers come in.

    Raises UnavailableError or RateLimitedError, or another BillingError where nothing can be sent
    before someone corrects the named fault.
    """
    parts = deque([rows] if rows else [])
    alone: list[tuple[Row, Receipt]] = []
    refusals = accepted = missing = 0
    refusal: BillingError | None = None
    while parts and (accepted or refusals <= _MOST_REFUSALS):
        part = parts.popleft()
        try:
            receipts = ask(part)
        except BillingError as error:
            if not _is_about_records(error):
                raise
            refusal, refusals = error, refusals + 1
            if len(part) > 1:
                parts.extend((part[: len(part) // 2], part[len(part) // 2 :]))
            else:
                alone.append((part[0], Receipt(part[0].request_id, "rejected", error=error)))
            continue
        answered = [(row, r) for row, r in zip(part, receipts, strict=True) if r is not None]
        accepted += len(answered)
        missing += len(part) - len(answered)
        yield answered
    if refusal is not None and not accepted and not missing:
        raise ConfigurationError(f"Every usage record is refused. {refusal}") from refusal
    yield alone
    if missing:
        raise UnavailableError(
            f"The service's answer has no readable verdict on {missing} records."
        )


def _is_about_records(error: BillingError) -> bool:
    """Whether a refused request may have been refused for a record in it."""
    status = error.status_code or 0
    if isinstance(error, ConfigurationError):
        return 400 <= status < 500 and status != 404
    return not isinstance(error, (*RETRIED, AuthenticationError))


def is_recorded(error: BillingError | None) -> bool:
    """Whether the service has the fact: it took it, or took it before with another time."""
    return error is None or (
        isinstance(error, ConflictError) and error.conflicting_fields == ("occurred_at",)
    )


def fate(row: Row, error: BillingError | None) -> Fate:
    """What becomes of a record that got this answer."""
    if error is None:
        return "sent"
    if isinstance(error, CustomerNotFoundError):
        return "waiting" if time.time() - row.at < UNKNOWN_CUSTOMER_SECONDS else "rejected"
    if row.stamped and isinstance(error, ValidationError):
        faults = {(fault.field, fault.code) for fault in error.fields}
        # This machine's clock is ahead; the fact is right, and its time will come.
        return "waiting" if faults == {("occurred_at", "in_the_future")} else "rejected"
    # The same fact may be enqueued twice, each time with the time of its own.
    return "sent" if row.stamped and is_recorded(error) else "rejected"


class Pace:
    """When to try again: full jitter under a ceiling that doubles, above the service's Retry-After.

    All times are in seconds, on the monotonic clock. ``limit`` is how many records to send: few
    after a failure, and never more bytes than the service takes, however long they are.
    """

    def __init__(self, first: float, last: float, shortest: float = 0.0) -> None:
        self.limit = MOST_RECORDS
        self._first, self._last, self._shortest = first, last, shortest
        self._ceiling, self._earliest, self._due = first, 0.0, 0.0

    def left(self) -> float:
        """Seconds until the next attempt."""
        return max(0.0, self._due - monotonic())

    def hurry(self) -> None:
        """Skip the jitter once, for a caller who waits."""
        self._due = min(self._due, self._earliest)

    def failed(self, retry_after: float | None = None) -> float:
        """Note a failure, and return the seconds to the next attempt."""
        floor, now = retry_after or 0.0, monotonic()
        # Many clients are told the same, and would all come back at the same moment.
        ceiling = max(self._ceiling, min(floor, self._last))
        jitter = uniform(0, ceiling)  # noqa: S311 - spreads load, keeps no secret
        self._earliest, self._due = now + max(floor, self._shortest), now + floor + jitter
        self._ceiling = min(self._ceiling * 2, self._last)
        self.limit = PROBE_RECORDS
        return floor + jitter

    def succeeded(self) -> None:
        """Go faster again."""
        self.limit = min(self.limit * 4, MOST_RECORDS)
        self.reset()

    def reset(self) -> None:
        """Begin anew, and now."""
        self._ceiling, self._earliest, self._due = self._first, 0.0, 0.0
