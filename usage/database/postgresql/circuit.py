"""Keeps threads free while the database does not answer, so that probes are still answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

from usage.database import deadline
from usage.database.deadline import DatabaseUnavailable

_OPEN = "The database has not answered for a while: try again later."


class CircuitOpen(DatabaseUnavailable):
    """The database has not answered for a while and one request is trying it: come back later."""


class Circuit:
    """Open from when a call has waited too long until one is answered; one for each process.

    While it is open, half of the threads may go on waiting and one request at a time may try.
    A commit that waits for a standby hangs while everything else is answered: then only an answered
    commit closes the circuit.
    """

    def __init__(self, *, threads: int = 8) -> None:
        self.threads = threads
        self.reset()

    def reset(self) -> None:
        """Begin anew, closed."""
        self._lock = Lock()
        self._calls: set[int] = set()  # the threads that wait for an answer
        self._open = False
        self._by_commit = False
        self._attempted_by: int | None = None  # the thread whose request tries an open circuit
        self._given_up: set[int] = set()

    @property
    def is_open(self) -> bool:
        return self._open

    @contextmanager
    def attempt(self, seconds: float | None = None) -> Iterator[None]:
        """Let the block use the database for a request's 8 seconds, or for so many.

        Raises CircuitOpen at once if it must not use it.
        """
        with self._lock:
            is_attempt = self._open
            if is_attempt and (self._attempted_by is not None or self._calls):
                raise CircuitOpen(_OPEN)
            if is_attempt:
                self._attempted_by = get_ident()
        try:
            with deadline.within(seconds or deadline.REQUEST_SECONDS):
                yield
        finally:
            if is_attempt:
                self._attempted_by = None

    def check(self) -> None:
        """Raise CircuitOpen if the circuit is open and this thread's request is not the attempt.

        For what begins anew within a request that was let in before the circuit opened.
        """
        if self._open and self._attempted_by != get_ident():
            raise CircuitOpen(_OPEN)

    def begins(self) -> None:
        """A call waits for its answer."""
        self._calls.add(get_ident())

    def ends(self) -> None:
        """The call of this thread waits no longer."""
        self._calls.discard(get_ident())

    def is_slow(self, *, commit: bool) -> None:
        """Open: a call has waited too long."""
        with self._lock:
            self._by_commit = commit or (self._open and self._by_commit)
            self._open = True

    def is_answered(self, *, commit: bool) -> None:
        """Close, if this answer tells that calls such as the slow one are answered again."""
        if commit or not self._by_commit:
            self._open = False

    def leaves(self) -> bool:
        """Tell this thread, which waits, whether it must give up: more than half of them wait."""
        with self._lock:
            if not self._open or len(self._calls) <= max(1, self.threads // 2):
                return False
            self._calls.discard(get_ident())
            return True

    def gave_up(self, backend_pid: int) -> None:
        """Remember a server process that was left waiting."""
        self._given_up.add(backend_pid)

    def take_given_up(self) -> list[int]:
        """Return the server processes left waiting since the last time."""
        with self._lock:
            given_up, self._given_up = self._given_up, set()
        return sorted(given_up)


circuit = Circuit()
