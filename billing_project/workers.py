"""gunicorn's threaded worker, which shares connections fairly with the others."""

from __future__ import annotations

import socket
import time

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]  # no stubs

from usage.api.shares import shares
from usage.database.postgresql.circuit import circuit

# Seconds for each connection that a worker has, up to so many.
_HESITATION, _MOST = 0.00005, 16


class FairThreadWorker(ThreadWorker):  # type: ignore[misc]  # for want of stubs
    """Leaves a new connection to a worker with fewer, by hesitating longer the more it has.

    This is an optimisation; gunicorn's own worker serves as well. To measure it, run
    `python -m benchmarks --without fair-worker`. Connections that stay open come in bursts, when
    callers or a proxy start, and whichever worker wakes first would take them all: one processor
    would serve them, and the others idle.
    """

    def init_process(self) -> None:
        """Tell the process how many threads it has, before the first request."""
        circuit.threads = self.cfg.threads
        shares.divide(self.cfg.threads)
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """Take a connection, unless another worker has taken it meanwhile."""
        time.sleep(_HESITATION * min(self.nr_conns, _MOST))
        super().accept(listener)
