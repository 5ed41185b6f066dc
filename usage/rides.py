"""Callers of one process that come while another is at work share the next turn.

A transaction of ten facts costs little more than one of a single fact: the same statements, the
same wait for the disk. So those that wait ride together, and one of them drives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Lock, Semaphore
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
    """One caller: what it brings, and what it gets once it is called."""

    def __init__(self, load: T) -> None:
        self.load = load
        self.called = Event()
        self.drives = False
        self.result: R | None = None


class Rides(Generic[T, R]):
    """Lets one caller at a time work, for itself and for all that came while it waited.

    `drive` gets the loads of one ride and returns their results in the same order, or None if
    they had better go alone. An error that it raises is its driver's; the others then go alone,
    and so does who has waited for `patience` seconds without a ride. Where there was a queue the
    next ride waits for `stop` seconds, since those of the last one are about to come back.
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
        self._waiting: list[_Seat[T, R]] = []
        self._is_driven = False
        self._was_shared = False

    def take(self, load: T) -> R | None:
        """Return the result for this load, or None if its caller must go alone."""
        seat: _Seat[T, R] = _Seat(load)
        with self._lock:
            seat.drives = not self._is_driven
            self._is_driven = True
            if not seat.drives:
                self._waiting.append(seat)
        if seat.drives or self._is_called_to_drive(seat):
            self._go(seat)
        return seat.result

    def _is_called_to_drive(self, seat: _Seat[T, R]) -> bool:
        if not seat.called.wait(self._patience):
            with self._lock:
                if seat in self._waiting:
                    self._waiting.remove(seat)
                    return False
            seat.called.wait()  # it is on its way
        return seat.drives

    def _go(self, driver: _Seat[T, R]) -> None:
        riders = [driver]
        try:
            if self._was_shared or driver.called.is_set():
                time.sleep(self._stop)
            with self._lock:
                riders += self._waiting
                self._waiting = []
            self._was_shared = len(riders) > 1
            results = self._drive([rider.load for rider in riders])
            for rider, result in zip(riders, results or (), strict=False):
                rider.result = result
        finally:
            self._hand_over()
            for rider in riders:
                rider.called.set()

    def _hand_over(self) -> None:
        with self._lock:
            self._is_driven = bool(self._waiting)
            if self._waiting:
                driver = self._waiting.pop(0)
                driver.drives = True
                driver.called.set()
