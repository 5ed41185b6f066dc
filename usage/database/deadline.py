"""How long the database may keep the work of this thread waiting.

A limit counts for all that is asked inside its block. PostgreSQL keeps it while it waits for an
answer (`usage/database/postgresql/waiting.py`); on SQLite there is no server that could be silent.
Outside of every block, in commands, there is no limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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
SILENCE_SECONDS = 8.0


class Limit:
    """The end, by the monotonic clock, and the longest time without a byte from the server."""

    def __init__(
        self,
        ends: float = math.inf,
        silence: float = math.inf,
        outer: Limit | None = None,
        *,
        is_request: bool = False,
    ) -> None:
        self.ends = ends
        self.silence = silence
        self.outer = outer
        # Whether a slow answer is a sign of an outage: exports and sums are slow by nature.
        self.is_request = is_request

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


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give up on the database after so many seconds, or with the block around this one."""
    outer = current()
    ends = monotonic() + seconds
    ends = min(ends, outer.ends) if outer else ends
    with _limited(Limit(ends, outer=outer, is_request=True)):
        yield


@contextmanager
def slow_by_nature() -> Iterator[None]:
    """Take as long as the block around this one has left, without being a sign of an outage."""
    outer = current() or Limit()
    with _limited(Limit(outer.ends, outer.silence, outer)):
        yield


@contextmanager
def patient() -> Iterator[None]:
    """Take as long as it needs, but give up when the server has been silent for 8 seconds.

    The blocks around this one have as much time left after it as before.
    """
    outer, began = current(), monotonic()
    with _limited(Limit(silence=SILENCE_SECONDS)):
        yield
    while outer is not None:
        outer.ends += monotonic() - began
        outer = outer.outer


@contextmanager
def _limited(limit: Limit) -> Iterator[None]:
    token = _current.set(limit)
    try:
        yield
    finally:
        _current.reset(token)
