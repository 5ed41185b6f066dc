"""When the next attempt is made, and how much it carries."""

from __future__ import annotations

from random import uniform
from time import monotonic

MOST_RECORDS = 500
PROBE_RECORDS = 8
# Fewer are not asked for because a request was too large: neighbours tell whose fault it was.
FEWEST_RECORDS = 64
FIRST_CEILING = 1.0
LAST_CEILING = 60.0
PAUSE_SECONDS = 60.0
SHORTEST_SECONDS = 1.0
# So many requests must get through before a size that was too large is tried again.
PATIENCE = 20


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
        """Seconds until the next attempt; somebody who waits for it skips the jitter alone."""
        return max(0.0, (self._floor if urgent else self._due) - monotonic())

    def failed(self, retry_after: float | None) -> float:
        """Note a failure that passes by itself; return the seconds until the next attempt."""
        floor = retry_after or 0.0
        # As many were told the same, and would all come back at the same moment.
        jitter = uniform(0, max(self._ceiling, min(floor, LAST_CEILING)))  # noqa: S311 - spreads load, keeps no secret
        self._plan(floor, jitter)
        self._ceiling = min(self._ceiling * 2, LAST_CEILING)
        self.limit = min(self.limit, PROBE_RECORDS)
        return floor + jitter

    def paused(self) -> float:
        """Note a failure that somebody must correct; return the seconds until it is looked at."""
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
