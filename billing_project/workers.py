"""gunicorn's threaded worker, with threads that are shared fairly and held by no slow caller."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # no stubs

from usage.api.shares import shares
from usage.database.postgresql.circuit import circuit

# Seconds for each connection that a worker has, up to so many.
_HESITATION, _MOST = 0.00005, 16
# How long a thread stays with the connection that it has answered.
_STAY_MILLISECONDS = 5
# How often the worker looks for callers that are too slow.
_LOOK_SECONDS = 1.0


class FairThreadWorker(ThreadWorker):  # type: ignore[misc]  # for want of stubs
    """Leaves a new connection to a worker with fewer, by hesitating longer the more it has.

    This is an optimisation, which saves an eighth of the CPU per single record; gunicorn's own
    worker serves as well. To measure it, run
    `python -m benchmarks --without fair-worker`. Connections that stay open come in bursts, when
    callers or a proxy start, and whichever worker wakes first would take them all: one processor
    would serve them, and the others idle.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The first sign of life, or gunicorn would wait for ever for one that hangs as it starts.
        self.notify()
        self._in_hand: set[Any] = set()  # connections that wait for a thread or have one
        self._next_look = 0.0

    def init_process(self) -> None:
        """Tell the process how many threads it has, before the first request."""
        circuit.threads = self.cfg.threads
        shares.divide(self.cfg.threads)
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """Take a connection, unless another worker has taken it meanwhile."""
        time.sleep(_HESITATION * min(self.nr_conns, _MOST))
        super().accept(listener)

    def enqueue_req(self, conn: Any) -> None:
        """Let a thread answer what arrives on the connection; it must arrive within the timeout."""
        conn.due = time.monotonic() + self.cfg.timeout
        self._in_hand.add(conn)
        super().enqueue_req(conn)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Take the connection back from its thread."""
        self._in_hand.discard(conn)
        super().finish_request(conn, fs)

    def murder_pending(self) -> None:
        """Close idle connections, and receive nothing more from callers that are too slow.

        Otherwise a few that send a byte now and then hold every thread. A request that has arrived
        whole is answered all the same, however long that takes.
        """
        super().murder_pending()
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        for conn in self._in_hand:
            if conn.due <= now:
                with contextlib.suppress(OSError):  # the caller has gone meanwhile
                    conn.sock.shutdown(socket.SHUT_RD)

    def handle(self, conn: Any) -> Any:
        """Answer a request, and those that follow at once on the same connection.

        The second part is an optimisation. It spares a request the way through the worker's main
        thread, which waits for all idle connections, and 11 % of the workers' CPU per single
        record. To measure it, run `python -m benchmarks --without staying`.
        """
        result = super().handle(conn)
        while result is True and self._stays(conn):
            conn.due = time.monotonic() + self.cfg.timeout
            result = super().handle(conn)
        return result

    def _stays(self, conn: Any) -> bool:
        """Wait a moment for the next request, unless another connection may need the thread."""
        idle = len(self.keepalived_conns) + len(self.pending_conns)
        if not self.alive or self.nr_conns - idle > self.cfg.threads:
            return False
        if conn.parser.unreader.buf.getvalue():  # read ahead already, which gunicorn looks after
            return False
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(_STAY_MILLISECONDS))
