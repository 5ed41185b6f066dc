"""What threads, signal handlers and finalizers of one process may share without a deadlock."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Lock, RLock
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Guard:
    """A lock that knows when it is entered again from below, by a signal handler or a finalizer.

    Only C code stands between taking the lock and the block that gives it back, so that a
    KeyboardInterrupt cannot leave it taken.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._depth = 0

    def run(self, act: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do it alone."""
        with self._lock:
            self._depth += 1
            try:
                return act(*args, **kwargs)
            finally:
                self._depth -= 1

    def is_nested(self) -> bool:
        """Whether the caller, who runs under this guard, interrupted somebody else who does."""
        return self._depth > 1

    def hold(self) -> None:
        """Keep everybody else out until release()."""
        self._lock.acquire()

    def release(self) -> None:
        """Let the others in again."""
        self._lock.release()


class Wakeup:
    """An event that may be set from a signal handler, which threading.Event may deadlock in."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let one wait() return, this one or the next."""
        if self._lock.locked():
            with suppress(RuntimeError):  # another thread was faster
                self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait on the monotonic clock; return whether set() was called."""
        return self._lock.acquire(timeout=max(0.0, seconds))
