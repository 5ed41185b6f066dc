"""How long the database may keep the work of this thread waiting.

A limit counts for all that is asked inside its block. PostgreSQL keeps it while it waits for an
answer (`usage/database/postgresql/waiting.py`); on SQLite there is no server that could be silent.
Outside of every block, in commands, there is no limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
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
