"""gunicorn's threaded worker, with threads that are shared fairly and held by no slow caller."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import selectors
import socket
import sys
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Any

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # no stubs

from usage.api.shares import shares, told
from usage.database.deadline import circuit
from usage.ledger import slot

# Seconds for each connection that a worker has, up to so many.
_HESITATION, _MOST = 0.00005, 16
# How often a worker without a free file descriptor tries to take a connection.
_FULL_SECONDS = 0.05
# How long a thread stays with the connection that it has answered.
_STAY_MILLISECONDS = 5
# How long a connection pauses after a 429: less than its Retry-After, so that whoever waits as told
# is not held up.
_PAUSE_SECONDS = 0.5
# How often the worker looks for callers that are too slow.
_LOOK_SECONDS = 1.0
# How long a caller may be silent and not close, once it has its last answer; as in gunicorn.
_LINGER_SECONDS = 2.0


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
        self._leaving: set[Any] = set()  # connections that are to be closed by their callers
        self._paused: deque[Any] = deque()  # connections with their answers, in the order of `due`
        self._next_look = 0.0

    def init_process(self) -> None:
        """Tell the process its number and how many threads it has, before the first request."""
        # Workers are numbered as they start; those of another host begin elsewhere.
        number = os.getppid() + self.age
        slot.process_number = lambda: number
        circuit.threads = self.cfg.threads
        shares.divide(self.cfg.threads)
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """Take a connection, unless another worker has taken it meanwhile."""
        time.sleep(_HESITATION * min(self.nr_conns, _MOST))
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
            # The connection waits until another is closed; gunicorn would end the worker.
            time.sleep(_FULL_SECONDS)

    def enqueue_req(self, conn: Any) -> None:
        """Let a thread answer what arrives on the connection; it must arrive within the timeout.

        A new connection is left to the poller until something arrives: gunicorn's own thread would
        wait up to five seconds for it, and a pool of connections that is opened ahead of its use
        would take all of them.
        """
        if not conn.initialized and not conn.data_ready:
            if conn.sock.family != socket.AF_UNIX and sys.platform == "linux":
                # Whoever reads no answers holds a thread: so long, and the kernel gives up.
                patience = 1000 * self.cfg.timeout
                conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
            conn.sock.settimeout(0)
            conn.set_timeout()
            self.pending_conns.append(conn)
            readable = partial(self.on_pending_socket_readable, conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, readable)
            return
        conn.due, conn.pauses = time.monotonic() + self.cfg.timeout, False
        self._in_hand.add(conn)
        super().enqueue_req(conn)

    def finish_request(self, conn: Any, fs: Future[Any]) -> None:
        """Take the connection back from its thread.

        One that is to be closed is closed once its caller has closed it, having read the answer
        (RFC 9112, 9.6). What still arrives of a refused body is dropped meanwhile, since many
        clients look for an answer only after they have sent everything. gunicorn waits for that in
        the worker's main thread, so that a few callers which do not close would stop the worker.
        """
        self._in_hand.discard(conn)
        now = time.monotonic()
        if conn.pauses:
            conn.due = now + _PAUSE_SECONDS
            self._paused.append((conn, fs))
        elif fs.cancelled() or fs.exception() or fs.result() is not False:
            super().finish_request(conn, fs)
        else:
            conn.due, conn.timeout = now + self.cfg.timeout, now + _LINGER_SECONDS
            try:
                conn.sock.settimeout(0)
                conn.sock.shutdown(socket.SHUT_WR)
                self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._drop, conn))
            except (OSError, ValueError):  # it is closed already
                self.nr_conns -= 1
                conn.close()
            else:
                self._leaving.add(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for what arrives, and read again from connections that have paused long enough.

        What a connection sends meanwhile stays in the kernel, and holds no thread. A worker that
        is to end waits for none.
        """
        if self._paused:
            timeout = min(timeout, max(0.0, self._paused[0][0].due - time.monotonic()))
        super().wait_for_and_dispatch_events(timeout)
        now = time.monotonic()
        while self._paused and (self._paused[0][0].due <= now or not self.alive):
            super().finish_request(*self._paused.popleft())

    def _drop(self, conn: Any, client: socket.socket) -> None:
        """Drop what has arrived on a connection that is to be closed; close it at its end."""
        try:
            arrived = client.recv(64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            arrived = b""
        if arrived:
            conn.timeout = time.monotonic() + _LINGER_SECONDS
        else:
            self._close(conn)

    def _close(self, conn: Any) -> None:
        self._leaving.discard(conn)
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """Close idle connections, and receive nothing more from callers that are too slow.

        Otherwise a few that send a byte now and then hold every thread. A request that has arrived
        whole is answered all the same, however long that takes. Callers that do not close a
        connection after their last answer are not waited for.
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
        for conn in [conn for conn in self._leaving if min(conn.timeout, conn.due) <= now]:
            self._close(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """Let a stopping worker wait for the first request of a connection no longer than for more.

        gunicorn would wait for it until the end of its graceful timeout.
        """
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def handle(self, conn: Any) -> Any:
        """Answer a request, and those that follow at once on the same connection.

        The second part is an optimisation. It spares a request the way through the worker's main
        thread, which waits for all idle connections, and 11 % of the workers' CPU per single
        record. To measure it, run `python -m benchmarks --without staying`.
        """
        told.pauses = False
        result = super().handle(conn)
        while result is True and not told.pauses and self._stays(conn):
            conn.due = time.monotonic() + self.cfg.timeout
            result = super().handle(conn)
        conn.pauses = result is True and told.pauses
        return result

    def _stays(self, conn: Any) -> bool:
        """Wait a moment for the next request, unless another connection may need the thread."""
        waiting = (self.keepalived_conns, self.pending_conns, self._leaving, self._paused)
        idle = sum(map(len, waiting))
        if not self.alive or self.nr_conns - idle > self.cfg.threads:
            return False
        if conn.parser.unreader.buf.getvalue():  # read ahead already, which gunicorn looks after
            return False
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(_STAY_MILLISECONDS))
