"""What becomes of each record, and when the next attempt is due; knows neither files nor threads.

A refusal of a whole request is taken apart until the culprit is alone. It counts against that
record only if others went through beside it: where everything is refused, the fault lies in the
address, the key or a proxy, and not in a day of usage.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import uniform
from time import monotonic
from typing import Literal

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
from billing_client.outbox.segment import Row, Segment
from billing_client.receipts import Receipt

MOST_RECORDS = 500
# From the moment of enqueue, whichever process sends.
UNKNOWN_CUSTOMER_SECONDS = 7 * 24 * 3600.0
# Enough to take a full batch apart, and to see that nothing of it goes through.
_MOST_REFUSALS = 40

# The times of attempts, in seconds.
FIRST_CEILING = 1.0
LAST_CEILING = 60.0
SHORTEST_SECONDS = 1.0
PROBE_RECORDS = 8
# Fewer are not asked for because a request was too large: neighbours tell whose fault it was.
FEWEST_RECORDS = 64
# How the number of records grows with each request that gets through: after a failure, and after
# one that was too large, which would be so again.
FAST, SLOW = 4, 1.02

# The times of records that wait, in seconds.
FIRST_WAIT = 5.0
LAST_WAIT = 3600.0
CLOCK_WAIT = 60.0
# Means the service's clock where another record waits for a customer.
CLOCK = 0
_ALL_NOW = float("-inf")

Ask = Callable[[Sequence[Row]], Sequence[Receipt | None]]
Fate = Literal["sent", "rejected", "waiting"]


def deliver(
    ask: Ask, rows: Sequence[Row], too_large: Callable[[int], None]
) -> Iterator[list[tuple[Row, Receipt]]]:
    """The receipts of the records, as the answers come in.

    Raises UnavailableError or RateLimitedError, or ConfigurationError where nothing can be sent
    before someone corrects what it says.
    """
    parts = deque([rows] if rows else [])
    alone: list[tuple[Row, Receipt]] = []
    refusals, accepted, missing = 0, 0, 0
    refusal: BillingError | None = None
    while parts and (accepted or refusals <= _MOST_REFUSALS):
        part = parts.popleft()
        try:
            receipts = ask(part)
        except BillingError as error:
            if isinstance(error, AuthenticationError):
                raise ConfigurationError(str(error)) from error
            if not _is_about_records(error):
                raise
            refusal, refusals = error, refusals + 1
            if error.status_code == 413:
                too_large(len(part))
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
    return not isinstance(error, RETRIED)


def fate(row: Row, error: BillingError | None) -> Fate:
    """What becomes of a record that got this answer."""
    if error is None:
        return "sent"
    if isinstance(error, CustomerNotFoundError):
        return "waiting" if time.time() - row.at < UNKNOWN_CUSTOMER_SECONDS else "rejected"
    if isinstance(error, ConflictError) and row.stamped:
        # The same fact enqueued twice, each time with the time of its own.
        return "sent" if error.conflicting_fields == ("occurred_at",) else "rejected"
    if isinstance(error, ValidationError) and row.stamped:
        faults = {(fault.field, fault.code) for fault in error.fields}
        # This machine's clock is ahead; the fact is right, and its time will come.
        return "waiting" if faults == {("occurred_at", "in_the_future")} else "rejected"
    return "rejected"


class Pace:
    """Full jitter under a ceiling that doubles, above Retry-After; small probes after a failure.

    All times are in seconds, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.limit = MOST_RECORDS
        self._growth: float = FAST
        self._ceiling = FIRST_CEILING
        self._earliest = self._due = 0.0

    def left(self) -> float:
        """Seconds until the next attempt."""
        return max(0.0, self._due - monotonic())

    def hurry(self) -> None:
        """Skip the jitter once, for a caller who waits."""
        self._due = min(self._due, self._earliest)

    def failed(self, retry_after: float | None, *, passes: bool = True) -> float:
        """Note a failure, and whether it passes by itself; return the seconds to the next attempt.

        After one that someone must correct, it is within a minute.
        """
        floor, now = retry_after or 0.0, monotonic()
        # Many clients are told the same, and would all come back at the same moment.
        ceiling = max(self._ceiling, min(floor, LAST_CEILING)) if passes else LAST_CEILING
        jitter = uniform(0, ceiling)  # noqa: S311 - spreads load, keeps no secret
        self._earliest, self._due = now + max(floor, SHORTEST_SECONDS), now + floor + jitter
        self._ceiling = min(self._ceiling * 2, LAST_CEILING)
        self.limit, self._growth = min(self.limit, PROBE_RECORDS), FAST
        return floor + jitter

    def succeeded(self) -> None:
        """Go faster again."""
        self._ceiling, self._earliest, self._due = FIRST_CEILING, 0.0, 0.0
        self.limit = min(int(self.limit * self._growth) + 1, MOST_RECORDS)

    def too_large(self, records: int) -> None:
        """Send at most half as many for a while."""
        self.limit, self._growth = max(FEWEST_RECORDS, records // 2), SLOW


class Waiting:
    """When records are sent again that wait for their customer, or for the service's clock."""

    def __init__(self) -> None:
        # For each customer, when its records are due and how long the next wait is.
        self._plan: dict[int, tuple[float, float]] = {}

    def customers(self) -> tuple[int, ...]:
        """The customers that records wait for."""
        return tuple(customer for customer in tuple(self._plan) if customer != CLOCK)

    def seconds(self) -> float:
        """Seconds until the next records are due."""
        due = min((due for due, _ in tuple(self._plan.values())), default=float("inf"))
        return max(0.0, due - monotonic())

    def take(self, segments: Iterable[Segment], limit: int) -> list[Row]:
        """The next records that are due: one of each customer to ask with, or all if it exists."""
        now = monotonic()
        due = {customer: at for customer, (at, _) in tuple(self._plan.items()) if at <= now}
        asked: set[int] = set()

        def is_chosen(row: Row) -> bool:
            customer = _waits_for(row)
            if customer not in due or (customer in asked and due[customer] != _ALL_NOW):
                return False
            asked.add(customer)
            return True

        for segment in segments if due else ():
            customers = None if segment.kind == "clock" else due
            if rows := segment.take(limit, customers, is_chosen):
                return rows
        for customer in due:  # nothing waits for them any more
            self._plan.pop(customer, None)
        return []

    def put_off(self, customer: int) -> None:
        """A record of the customer begins to wait; or still does, for twice as long as before."""
        first, last = (CLOCK_WAIT, CLOCK_WAIT) if customer == CLOCK else (FIRST_WAIT, LAST_WAIT)
        due, wait = self._plan.get(customer, (0.0, first))
        if due <= monotonic():
            self._plan[customer] = monotonic() + wait, min(wait * 2, last)

    def hurry(self) -> None:
        """Ask for each now: a caller waits for it."""
        for customer, (due, wait) in tuple(self._plan.items()):
            self._plan[customer] = min(due, 0.0), wait

    def got_through(self, row: Row) -> None:
        """Send all that waits for the customer: a record of it has its outcome."""
        for customer in {row.customer_id, _waits_for(row)} & self._plan.keys():
            self._plan[customer] = _ALL_NOW, self._plan[customer][1]


def _waits_for(row: Row) -> int:
    return CLOCK if row.segment.kind == "clock" else row.customer_id
