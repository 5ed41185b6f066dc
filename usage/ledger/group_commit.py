"""How the requests of a process share the database: two optimisations.

Recording is right without either. Small requests share transactions (`GroupCommit`); large ones,
which gain nothing from company, wait for a place (`LargeRequests`).
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from threading import BoundedSemaphore, Condition, Lock
from typing import Generic, TypeVar

from usage.database.deadline import DatabaseUnavailable
from usage.database.postgresql import waiting

Request = TypeVar("Request")
Result = TypeVar("Result")


class _Waiter(Generic[Request, Result]):
    """One request, and its result once the leader has released `wakeup`."""

    __slots__ = ("leads", "request", "result", "wakeup")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.wakeup = Lock()  # an Event takes four times as long to make, wait for and set
        self.wakeup.acquire()
        self.leads = False
        self.result: Result | None = None


class GroupCommit(Generic[Request, Result]):
    """Requests that arrive during a transaction share the next one.

    A transaction that records ten facts costs little more than one that records a single fact: it
    has the same statements and the same wait for the disk. So one group of requests runs at a time,
    each led by the request that waited longest. With 16 connections this saves more than half of
    the CPU per single record in the workers and in PostgreSQL, and a quarter in batches of a
    hundred. To measure it, run `python -m benchmarks --without group-commit`.

    `run` gets the requests of a group and returns their results in the same order, or None if
    each had better run alone. If `run` raises an error, the leader's `submit` raises it, and the
    other requests of the group run alone. So does a request that has waited for `patience`
    seconds. The requests of the last group are likely to be followed by as many at once, so a
    leader lingers for up to `linger` seconds until that many have arrived. A group has at most
    `most` requests; the next group takes the others.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Request]], Sequence[Result] | None],
        *,
        patience: float,
        linger: float = 0.0,
        most: int = sys.maxsize,
    ) -> None:
        self._run = run
        self._patience = patience
        self._linger = linger
        self._most = most
        self._lock = Lock()
        self._group_is_complete = Condition(self._lock)
        self._waiting: list[_Waiter[Request, Result]] = []
        self._expected = 1
        self._has_leader = False

    def submit(self, request: Request) -> Result | None:
        """Run the request with others; return its result, or None if it must run alone."""
        waiter: _Waiter[Request, Result] = _Waiter(request)
        with self._lock:
            waiter.leads = not self._has_leader
            self._has_leader = True
            if not waiter.leads:
                self._waiting.append(waiter)
                if 1 + len(self._waiting) >= self._expected:
                    self._group_is_complete.notify()
        if not waiter.leads and not waiter.wakeup.acquire(timeout=self._patience):
            with self._lock:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                    return None
            # A leader took the request just now, or made it the leader: wait for that.
            try:
                waiting.acquire(waiter.wakeup)
            except DatabaseUnavailable:
                with self._lock:
                    if not waiter.leads:
                        raise
                # It was made the leader just now: it leads, so that it hands over to another.
        if waiter.leads:
            self._lead(waiter)
        return waiter.result

    def _lead(self, leader: _Waiter[Request, Result]) -> None:
        """Run the leader's request and all that wait, then hand over to the next leader."""
        group = [leader]
        try:
            with self._lock:
                self._group_is_complete.wait_for(
                    lambda: 1 + len(self._waiting) >= self._expected, self._linger
                )
                others = self._most - 1
                group += self._waiting[:others]
                self._waiting = self._waiting[others:]
            results = self._run([waiter.request for waiter in group])
            for waiter, result in zip(group, results or (), strict=False):
                waiter.result = result
        finally:
            with self._lock:
                self._expected = min(len(group) + len(self._waiting), self._most)
                self._has_leader = bool(self._waiting)
                if self._waiting:
                    successor = self._waiting.pop(0)
                    successor.leads = True
                    successor.wakeup.release()
            for waiter in group[1:]:
                waiter.wakeup.release()


class LargeRequests:
    """Two large requests record at a time, and one while small requests come.

    Two keep the process and PostgreSQL busy: one is prepared or answered while the other's
    statements run. More would only wait for each other's rows of daily usage, and beside small
    requests they take the processors, the rows and the disk from them. Beside one key with 64
    connections of batches of 1000, other keys wait 1.7 times as long without this in the median,
    and 1.2 times at the 99th percentile. To measure it, run
    `python -m benchmarks --without large-request-limit`.
    """

    def __init__(self, *, patience: float) -> None:
        self.patience = patience
        self.clock: Callable[[], float] = time.monotonic
        self._two, self._one = BoundedSemaphore(2), BoundedSemaphore(1)
        self._one_until = -math.inf

    def small_came(self) -> None:
        """Leave large requests one place for a second, in which another one is expected."""
        self._one_until = self.clock() + 1.0

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
