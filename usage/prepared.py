"""Statements that PostgreSQL plans once for each connection instead of each time.

Planning an insertion takes the server as long as executing it for a few records. Only what can be
executed in one way, whatever the tables hold, is for here: a search planned while a table was
small would go on reading all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from django.db.backends.utils import CursorWrapper

# The names that each of psycopg2's connections knows: a new connection knows none.
_known: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def execute(cursor: CursorWrapper, name: str, sql: str, params: Sequence[Any]) -> None:
    """Execute `sql`, which has no other %s than its parameters and never differs for one name.

    The server forgets what was prepared only with the connection, or if a pooler in between makes
    it (DISCARD ALL); `repeatable` begins again on a new connection then.
    """
    known = _known.setdefault(cursor.db.connection, set())
    if name not in known:
        numbered = "".join(
            part if number == 0 else f"${number}{part}"
            for number, part in enumerate(sql.split("%s"))
        )
        cursor.execute(f"PREPARE {name} AS {numbered}")
        known.add(name)
    cursor.execute(f"EXECUTE {name} ({', '.join(['%s'] * len(params))})", params)
