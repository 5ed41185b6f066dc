"""How a thread waits for PostgreSQL: within the limit of its work, and never for ever.

psycopg2 calls `wait` whenever it waits, for a connection, a statement or a commit. So the process
keeps the time, whatever the server does: a commit that waits for a disk or a standby knows no
statement_timeout, and a frozen server runs no timer. Giving up shuts the socket down and cancels
nothing: cancelling a commit that waits for a standby would acknowledge it without the standby.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
from threading import Lock, Semaphore
from time import monotonic

import psycopg2
from psycopg2 import extensions

from usage.database import deadline
from usage.database.deadline import DatabaseUnavailable, Limit, circuit

# Sooner than a second: a probe that comes when an outage begins is answered within one.
SLOW_SECONDS = 0.7
# How often a thread that waits looks whether it must make room for others.
_LOOK_SECONDS = 0.1


class GivenUp(psycopg2.OperationalError):
    """The server did not answer in time; whether a commit went through is not known."""


class Connection(extensions.connection):
    """A connection that tells whether it is committing."""

    is_committing = False

    def commit(self) -> None:
        self.is_committing = True
        try:
            super().commit()
        finally:
            self.is_committing = False


def install() -> None:
    """Let psycopg2 wait by `wait`, in this process and for all connections.

    COPY does not work from then on, which the service does not use.
    """
    extensions.set_wait_callback(wait)


def wait(connection: extensions.connection) -> None:
    """Return when the server has answered; raises GivenUp, having shut the connection down."""
    limit = deadline.current()
    if limit is None:
        while (state := connection.poll()) != extensions.POLL_OK:
            _wait_for_socket(connection, state, None)
        return
    circuit.begins()
    try:
        _wait_within(limit, connection)
    finally:
        circuit.ends()


def _wait_within(limit: Limit, connection: extensions.connection) -> None:
    is_commit = getattr(connection, "is_committing", False)
    now = began = heard = monotonic()
    is_slow = False
    while (state := connection.poll()) != extensions.POLL_OK:
        seconds = min(_LOOK_SECONDS, limit.ends - now, heard + limit.silence - now)
        if seconds <= 0:
            if now > began:  # it had time to answer
                circuit.is_slow(commit=is_commit)
            give_up(connection, "The database did not answer in time.")
        if _wait_for_socket(connection, state, seconds):
            now = heard = monotonic()
            continue
        now = monotonic()
        if limit.is_request and not is_slow and now - began >= SLOW_SECONDS:
            is_slow = True
            circuit.is_slow(commit=is_commit)
        if limit.is_request and circuit.leaves():
            limit.end()
            give_up(connection, "The database does not answer, and others wait for it already.")
    if circuit.is_open:
        circuit.is_answered(commit=is_commit)


def acquire(lock: Lock | Semaphore, patience: float = math.inf) -> bool:
    """Acquire a lock that another thread holds while it waits for the database.

    Returns False after `patience` seconds. Raises DatabaseUnavailable where a call of this thread's
    own would have been given up.
    """
    limit = deadline.current() or Limit()
    give_up_at = monotonic() + patience
    circuit.begins()
    try:
        while True:
            now = monotonic()
            seconds = min(_LOOK_SECONDS, give_up_at - now, limit.ends - now)
            if lock.acquire(timeout=max(0.0, seconds)):
                return True
            if monotonic() >= give_up_at:
                return False
            if limit.is_over or (limit.is_request and circuit.leaves()):
                raise DatabaseUnavailable("The database did not answer another request in time.")
    finally:
        circuit.ends()


def _wait_for_socket(connection: extensions.connection, state: int, seconds: float | None) -> bool:
    poll = select.poll()
    wanted = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
    poll.register(connection.fileno(), wanted)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def give_up(connection: extensions.connection, reason: str) -> None:
    """Shut the socket down; raises GivenUp, upon which psycopg2 closes the connection."""
    if backend_pid := connection.info.backend_pid:  # none while it connects
        circuit.gave_up(backend_pid)
    with (
        contextlib.suppress(OSError),  # the server has closed it meanwhile
        socket.socket(fileno=os.dup(connection.fileno())) as shut,
    ):
        shut.shutdown(socket.SHUT_RDWR)
    raise GivenUp(reason)
