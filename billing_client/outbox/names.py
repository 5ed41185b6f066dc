"""The names of outbox files, and what is in a directory going by them."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

_NAME = re.compile(r"usage-[0-9]{8}T[0-9]{6}Z-[0-9]+-[0-9a-f]{12}\.sqlite3")


def new_name() -> str:
    """One that no other file has, in the order of time."""
    # Nothing that imports anything: finalizers may come here when the interpreter is all but gone.
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"usage-{now}-{os.getpid()}-{os.urandom(6).hex()}.sqlite3"


def files(directory: Path) -> list[Path]:
    """The outbox files of a directory, the oldest first, whoever owns them. Raises OSError."""
    return sorted(p for p in directory.iterdir() if _is_own(p.name))


def foreign_files(directory: Path) -> list[Path]:
    """Other SQLite files, which are never even opened. Raises OSError."""
    return sorted(p for p in directory.glob("*.sqlite3") if not _is_own(p.name))


def stray_logs(directory: Path) -> list[Path]:
    """Logs whose process died between removing a file and its log. Raises OSError."""
    logs = (p for p in directory.glob("*.sqlite3-wal") if _is_own(p.name.removesuffix("-wal")))
    return [log for log in logs if not log.with_name(log.name.removesuffix("-wal")).exists()]


def _is_own(name: str) -> bool:
    return _NAME.fullmatch(name) is not None
