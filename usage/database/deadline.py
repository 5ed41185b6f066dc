"""How long the database may keep the work of this thread waiting, and how many threads.

A limit counts for all that is asked inside its block. PostgreSQL keeps it while it waits for an
answer (`usage/database/postgresql/waiting.py`); on SQLite there is no server that could be silent.
Outside of every block, in commands, there is no limit.

The circuit keeps threads free while the database does not answer, so that probes are still
answered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from threading import Lock, get_ident
from time import monotonic


class DatabaseUnavailable(Exception):
    """The database is away, locked or overloaded; whether a commit went through is not known."""

    def __str__(self) -> str:
        """In one line, with the message of the database."""
        cause = f" {self.__cause__}" if self.__cause__ else ""
        return " ".join(f"{super().__str__()}{cause}".split())


# A caller waits 10 seconds.
REQUEST_SECONDS = 8.0
PROBE_SECONDS = 2.0
# A server that is silent when a request begins may answer a new connection.
HEALTH_CHECK_SECONDS = 0.5
SILENCE_SECONDS = 8.0
_OPEN = "The database has not answered for a while: try again later."


@dataclass(slots=True, eq=False)
class Limit:
    """The end, by the monotonic clock, and the longest time without a byte from the server.

    Within its block it is the current limit.
    """

    ends: float = math.inf
    silence: float = math.inf
    outer: Limit | None = None
    # Whether a slow answer is a sign of an outage: exports and sums are slow by nature.
    is_request: bool = False
    _token: Token[Limit | None] = field(init=False)

    def __enter__(self) -> None:
        self._token = _current.set(self)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)

    @property
    def is_over(self) -> bool:
        return monotonic() >= self.ends or (self.outer is not None and self.outer.is_over)

    def end(self) -> None:
        """Let nothing begin any more, neither in this block nor in those around it."""
        self.ends = -math.inf
        if self.outer is not None:
            self.outer.end()


_current: ContextVar[Limit | None] = ContextVar("limit", default=None)
current = _current.get


def within(seconds: float) -> AbstractContextManager[None]:
    """Give up on the database after so many seconds, or with the block around this one."""
    outer = current()
    ends = monotonic() + seconds
    return Limit(min(ends, outer.ends) if outer else ends, outer=outer, is_request=True)


def slow_by_nature() -> AbstractContextManager[None]:
    """Take as long as the block around this one has left, without being a sign of an outage."""
    outer = current() or Limit()
    return Limit(outer.ends, outer.silence, outer)


@contextmanager
def patient() -> Iterator[None]:
    """Take as long as it needs, but give up when the server has been silent for 8 seconds.

    The blocks around this one have as much time left after it as before.
    """
    outer, began = current(), monotonic()
    with Limit(silence=SILENCE_SECONDS):
        yield
    while outer is not None:
        outer.ends += monotonic() - began
        outer = outer.outer


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
            with within(seconds or REQUEST_SECONDS):
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
