"""How many large requests a process records at a time.

Two keep the process and PostgreSQL busy: one is prepared or answered while the other's statements
run. More would only wait for each other's rows of daily usage.

While small requests come, it is one: several batches at a time take the processors, the rows and
the disk from them. This is an optimisation; recording is right without it. Beside one key with 64
connections of batches of 1000, other keys wait 1.7 times as long without it in the median, and 1.2
times at the 99th percentile. To measure it, run
`python -m benchmarks --without large-request-limit`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from threading import BoundedSemaphore

from usage.database.postgresql import waiting

# How long after a small request another one is expected.
_SECONDS = 1.0


class LargeRequests:
    """The places of the large requests of a process. Safe for threads."""

    def __init__(self, *, patience: float) -> None:
        self.patience = patience
        self.clock: Callable[[], float] = time.monotonic
        self._two, self._one = BoundedSemaphore(2), BoundedSemaphore(1)
        self._one_until = -math.inf

    def small_came(self) -> None:
        """Leave large requests one place, for a second."""
        self._one_until = self.clock() + _SECONDS

    @contextlib.contextmanager
    def place(self) -> Iterator[bool]:
        """Run the block in a place, or without one after `patience` seconds; tells which."""
        places = self._one if self.clock() < self._one_until else self._two
        has_place = waiting.acquire(places, self.patience)
        try:
            yield has_place
        finally:
            if has_place:
                places.release()
