"""Which process this is."""

from __future__ import annotations

import os


class Process:
    """Tells this process from its ancestors, also from one with the same pid."""

    forks = 0

    @classmethod
    def forked(cls) -> None:
        """Note that this is the child of a fork."""
        cls.forks += 1

    @classmethod
    def name(cls) -> tuple[int, int]:
        """A name that no ancestor has."""
        # Forks made outside Python run no hooks, but change the pid.
        return os.getpid(), cls.forks


if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(after_in_child=Process.forked)
