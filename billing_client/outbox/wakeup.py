"""A way to wake a thread from anywhere, also from a signal handler."""

from __future__ import annotations

from contextlib import suppress
from threading import Lock


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
