"""Statements that PostgreSQL plans once for each connection instead of each time.

Planning the write path's statements takes the server as long as executing them for a few records:
without this it takes 1.5 times the CPU per single record, where eight share a transaction.
This is an optimisation: sent as they are, the statements do the same. To measure it, run
`python -m benchmarks --without prepared-statements`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from django.db.backends.utils import CursorWrapper

# What each of psycopg2's connections has prepared by name, and until when; a new one knows nothing.
_known: WeakKeyDictionary[Any, dict[str, tuple[str, float]]] = WeakKeyDictionary()


def execute(
    cursor: CursorWrapper, name: str, sql: str, params: Sequence[Any], *, seconds: float = math.inf
) -> None:
    """Execute `sql`, which has no other %s than its parameters.

    It is planned anew after so many `seconds`, which a search needs: planned while a table was
    small, it would go on reading all of it. The server forgets prepared statements only with the
    connection, or if a pooler in between makes it (DISCARD ALL); `repeatable` begins again on a
    new connection then.
    """
    known = _known.setdefault(cursor.db.connection, {})
    now = monotonic()
    prepared, until = known.get(name, ("", now))
    if prepared != sql or until <= now:
        if known.pop(name, None):
            cursor.execute(f"DEALLOCATE {name}")
        first, *others = sql.split("%s")
        numbered = "".join(f"${number}{part}" for number, part in enumerate(others, start=1))
        cursor.execute(f"PREPARE {name} AS {first}{numbered}")
        known[name] = sql, now + seconds
    cursor.execute(f"EXECUTE {name} ({', '.join(['%s'] * len(params))})", params)
