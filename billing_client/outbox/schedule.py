"""When the next attempt is made: of a request, and of records that wait for their customer."""

from __future__ import annotations

from collections import deque
from random import uniform
from time import monotonic

from billing_client.outbox.segment import Row, Segment

MOST_RECORDS = 500
PROBE_RECORDS = 8
# Fewer are not asked for because a request was too large: neighbours tell whose fault it was.
FEWEST_RECORDS = 64
FIRST_CEILING = 1.0
LAST_CEILING = 60.0
PAUSE_SECONDS = 60.0
SHORTEST_SECONDS = 1.0
# More is not believed: a proxy's mistake must not stop the sending for years.
LONGEST_RETRY_AFTER = 3600.0
# So many requests must get through before a size that was too large is tried again.
PATIENCE = 20

FIRST_WAIT = 5.0
LAST_WAIT = 3600.0
# Means the service's clock where another record waits for a customer.
CLOCK = 0
CLOCK_WAIT = 60.0


class Pace:
    """Full jitter under a ceiling that doubles, above Retry-After; small probes after one.

    All times are on the monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self.limit = MOST_RECORDS
        self._ceiling = FIRST_CEILING
        self._largest = MOST_RECORDS
        self._successes = 0
        self._floor = 0.0
        self._due = 0.0

    def left(self, *, urgent: bool) -> float:
        """Seconds until the next attempt; a caller who waits for it skips the jitter alone."""
        return max(0.0, (self._floor if urgent else self._due) - monotonic())

    def failed(self, retry_after: float | None) -> float:
        """Note a failure that passes by itself; return the seconds until the next attempt."""
        floor = min(retry_after or 0.0, LONGEST_RETRY_AFTER)
        # Many clients are told the same, and would all come back at the same moment.
        jitter = uniform(0, max(self._ceiling, min(floor, LAST_CEILING)))  # noqa: S311 - spreads load, keeps no secret
        self._plan(floor, jitter)
        self._ceiling = min(self._ceiling * 2, LAST_CEILING)
        self.limit = min(self.limit, PROBE_RECORDS)
        return floor + jitter

    def paused(self) -> float:
        """Note a failure that someone must correct; return the seconds until it is looked at."""
        seconds = uniform(PAUSE_SECONDS / 2, PAUSE_SECONDS)  # noqa: S311 - as above
        self._plan(0.0, seconds)
        return seconds

    def succeeded(self) -> None:
        """Go faster again."""
        self._ceiling = FIRST_CEILING
        self._floor = self._due = 0.0
        self._successes += 1
        if self._successes >= PATIENCE:
            self._largest = MOST_RECORDS
        self.limit = min(self.limit * 4, self._largest)

    def too_large(self, records: int) -> None:
        """Send at most half as many for a while."""
        self._successes = 0
        self._largest = min(self._largest, max(FEWEST_RECORDS, records // 2))
        self.limit = min(self.limit, self._largest)

    def _plan(self, floor: float, jitter: float) -> None:
        now = monotonic()
        self._floor = now + max(floor, SHORTEST_SECONDS)
        self._due = now + floor + jitter


class Queue:
    """The records that wait for one customer, the oldest first."""

    def __init__(self, wait: float) -> None:
        self.places: deque[tuple[Segment, int]] = deque()
        self.wait = wait
        self.due = monotonic() + wait
        # Whether the customer seems to exist by now, so that all are sent, and not one to ask.
        self.open = False


class Waiting:
    """The records of this process's waiting segments, in a queue for each customer."""

    def __init__(self) -> None:
        self._queues: dict[int, Queue] = {}

    def customers(self) -> tuple[int, ...]:
        """The customers that records wait for."""
        return tuple(customer for customer in tuple(self._queues) if customer != CLOCK)

    def add(self, customer: int, segment: Segment, length: int) -> None:
        """A record begins to wait: the last of a segment, whose line is so long."""
        if customer not in self._queues:
            self._queues[customer] = Queue(CLOCK_WAIT if customer == CLOCK else FIRST_WAIT)
        # Behind the newline that begins the line; no other thread writes to such a segment.
        self._queues[customer].places.append((segment, segment.length() - length + 1))

    def take(self, limit: int) -> list[Row]:
        """The next records that are due: one of each customer, or all if the customer exists."""
        rows: list[Row] = []
        for customer, queue in tuple(self._queues.items()):
            if queue.due <= monotonic():
                most = limit - len(rows) if queue.open else min(1, limit - len(rows))
                rows += [row._replace(queue=customer) for row in _first(queue, most)]
                if not queue.places:
                    del self._queues[customer]
        return rows

    def still_waits(self, customer: int) -> None:
        """Put the next attempt off, twice as long as the one before."""
        queue = self._queues[customer]
        queue.open = False
        if queue.due <= monotonic():
            queue.due = monotonic() + queue.wait
            queue.wait = min(queue.wait * 2, CLOCK_WAIT if customer == CLOCK else LAST_WAIT)

    def got_through(self, customer: int) -> None:
        """Send all that waits for the customer: a record of it has its outcome."""
        queue = self._queues.get(customer)
        if queue is not None:
            queue.open, queue.due = True, 0.0

    def hurry(self) -> None:
        """Try each queue now: a caller waits for it."""
        for queue in self._queues.values():
            queue.due = 0.0

    def seconds(self) -> float | None:
        """Seconds until the next queue is due; None if no record waits."""
        if not self._queues:
            return None
        return max(0.0, min(queue.due for queue in self._queues.values()) - monotonic())


def _first(queue: Queue, most: int) -> list[Row]:
    rows: list[Row] = []
    settled = []
    # A place stays in the queue until its record has an outcome: an attempt may fail.
    for place in queue.places:
        if len(rows) == most:
            break
        segment, offset = place
        row = segment.row_at(offset)
        if row is None:
            settled.append(place)
        else:
            rows.append(row)
    for place in settled:
        queue.places.remove(place)
    return rows
