"""Keeps the outboxes of a process right through forks and its end."""

from __future__ import annotations

import atexit
import ctypes
import os
import sqlite3
from threading import get_ident
from typing import Protocol

EXIT_SECONDS = 2.0


class Forked(Protocol):
    """What wants to know of forks and of the end."""

    def before_fork(self) -> None:
        """Be ready to be copied."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Begin anew."""

    def close(self, timeout: float, *, at_exit: bool) -> None:
        """The interpreter ends."""


_watched: dict[int, Forked] = {}
# By thread: two may fork at once, and each has to let go again what it held.
_forking: dict[int, list[Forked]] = {}


def watch(outbox: Forked) -> None:
    """Tell it of forks and of the end, and keep it until then."""
    _watched[id(outbox)] = outbox


def forget(outbox: Forked) -> None:
    """It was closed."""
    _watched.pop(id(outbox), None)


def leak(connection: sqlite3.Connection) -> None:
    """Never close it, not even at the end of the process.

    SQLite would take this copy for the owner's, empty the log and remove it while the parent
    goes on writing to it.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _before() -> None:
    _forking[get_ident()] = list(_watched.values())
    for outbox in _forking[get_ident()]:
        outbox.before_fork()


def _in_parent() -> None:
    for outbox in _forking.pop(get_ident(), ()):
        outbox.after_fork_in_parent()


def _in_child() -> None:
    # Also of forks made in C, which may run this hook and not the one before.
    _forking.clear()
    for outbox in tuple(_watched.values()):
        outbox.after_fork_in_child()


def _at_exit() -> None:
    for outbox in tuple(_watched.values()):
        outbox.close(EXIT_SECONDS, at_exit=True)


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
atexit.register(_at_exit)
