"""Callers of one process that come while another is at work share the next turn.

A transaction of ten facts costs little more than one of a single fact: the same statements, the
same wait for the disk. So those that wait ride together, and one of them drives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, Lock, Semaphore
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def turn(turns: Semaphore, *, patience: float) -> Iterator[None]:
    """Wait for a turn, though no longer than `patience` seconds: then go without one."""
    has_turn = turns.acquire(timeout=patience)
    try:
        yield
    finally:
        if has_turn:
            turns.release()


class _Seat(Generic[T, R]):
    """One caller: what it brings, and what it gets once it is called, which frees its lock."""

    __slots__ = ("called", "drives", "load", "result")

    def __init__(self, load: T) -> None:
        self.load = load
        self.called = Lock()  # an Event takes four times as long to make, wait for and set
        self.called.acquire()
        self.drives = False
        self.result: R | None = None


class Rides(Generic[T, R]):
    """Lets one caller at a time work, for itself and for all that came while it waited.

    `drive` gets the loads of one ride and returns their results in the same order, or None if
    they had better go alone. An error that it raises is its driver's; the others then go alone,
    and so does who has waited for `patience` seconds without a ride. Those of the last ride are
    likely to come back at once: the next one waits for as many, for up to `stop` seconds.
    """

    def __init__(
        self,
        drive: Callable[[Sequence[T]], Sequence[R] | None],
        *,
        patience: float,
        stop: float = 0.0,
    ) -> None:
        self._drive = drive
        self._patience = patience
        self._stop = stop
        self._lock = Lock()
        self._all_are_back = Condition(self._lock)
        self._waiting: list[_Seat[T, R]] = []
        self._expected = 1
        self._is_driven = False

    def take(self, load: T) -> R | None:
        """Return the result for this load, or None if its caller must go alone."""
        seat: _Seat[T, R] = _Seat(load)
        with self._lock:
            seat.drives = not self._is_driven
            self._is_driven = True
            if not seat.drives:
                self._waiting.append(seat)
                if self._is_full():
                    self._all_are_back.notify()
        if seat.drives or self._is_called_to_drive(seat):
            self._go(seat)
        return seat.result

    def _is_full(self) -> bool:
        return 1 + len(self._waiting) >= self._expected

    def _is_called_to_drive(self, seat: _Seat[T, R]) -> bool:
        if not seat.called.acquire(timeout=self._patience):
            with self._lock:
                if seat in self._waiting:
                    self._waiting.remove(seat)
                    return False
            seat.called.acquire()  # it is on its way
        return seat.drives

    def _go(self, driver: _Seat[T, R]) -> None:
        riders = [driver]
        try:
            with self._lock:
                self._all_are_back.wait_for(self._is_full, self._stop)
                riders += self._waiting
                self._waiting = []
            results = self._drive([rider.load for rider in riders])
            for rider, result in zip(riders, results or (), strict=False):
                rider.result = result
        finally:
            self._hand_over(len(riders))
            for rider in riders[1:]:
                rider.called.release()

    def _hand_over(self, answered: int) -> None:
        with self._lock:
            self._expected = answered + len(self._waiting)
            self._is_driven = bool(self._waiting)
            if self._waiting:
                driver = self._waiting.pop(0)
                driver.drives = True
                driver.called.release()
