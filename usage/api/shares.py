"""How much of a process one API key may hold, so that a busy API client cannot starve the others.

A request holds a thread until it is answered, and one that waits for a thread is not even read.
Without a limit, one key with enough connections holds every thread.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from threading import Semaphore
from typing import Any

# A proxy that adds one of these may send the requests of many API clients over one connection.
_HEADERS_OF_PROXIES = frozenset({"HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED_FOR"})


class Shares(dict[int, Semaphore]):
    """By the id of an API key: a semaphore that counts its requests in progress in this process.

    There is one for each key that was ever used, so their number is bounded by that of the keys.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests = sys.maxsize  # unlimited, until the server says how many threads it has

    def divide(self, threads: int) -> None:
        """Let a key hold half of the threads, at least one. Call it before the first request."""
        self.requests = max(1, threads // 2)
        self.clear()

    def __missing__(self, api_key_id: int) -> Semaphore:
        # If two come at once, one wins.
        return self.setdefault(api_key_id, Semaphore(self.requests))


class _Told(threading.local):
    """What the thread that answered a request tells the server of its connection."""

    pauses = False


def let_connection_pause(environ: Mapping[str, Any]) -> None:
    """Let the server read the next request of this connection later, unless a proxy shares it.

    Optimisation: an API client that comes back at once, though it is told to wait, would keep the
    processors busy with refusals. Beside one, it halves other keys' p99, and the client itself
    records 1.6 times as much. Measure it by `python -m benchmarks --without pause`.
    """
    told.pauses = _HEADERS_OF_PROXIES.isdisjoint(environ)


shares = Shares()
told = _Told()
