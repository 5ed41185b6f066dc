"""The databases of a run: one for the service, one for each peer, dropped at the end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, called as one
from psycopg2.extensions import parse_dsn

from usage.tests import postgresql

ROOT = Path(__file__).resolve().parent.parent
CUSTOMERS = 1000
_LIBPQ = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD"}
_SETTLED_SECONDS = 0.1
_MOST_LOOKS = 300
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Books(Protocol):
    """Where a server stores its records."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which the server finds it."""

    def stored(self) -> int:
        """How many records there are, once the requests under way have ended."""

    def cpu_seconds(self) -> float:
        """The processor time that its server has used so far; 0 if it has none on this machine."""


class Database(NamedTuple):
    """A PostgreSQL database: as DATABASE_URL names it, and the table its records go to."""

    url: str
    table: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which the service, the peers and pgbench find it."""
        given = parse_dsn(self.url)
        libpq = {name: given[key] for key, name in _LIBPQ.items() if key in given}
        return {**libpq, "PGDATABASE": given["dbname"], "DATABASE_URL": self.url}

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection on which each statement commits by itself."""
        with contextlib.closing(psycopg2.connect(self.url)) as connection:
            connection.autocommit = True
            yield connection

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What one statement brings."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def value(self, sql: str) -> Any:
        """The one value that a statement brings."""
        ((value,),) = self.rows(sql)
        return value

    def stored(self) -> int:
        """How many records there are, once the requests under way have ended."""
        busy = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND state <> 'idle'"
        )
        quiet = 0
        for _ in range(_MOST_LOOKS):
            quiet = 0 if self.value(busy) else quiet + 1
            if quiet == 2:
                return int(self.value(f"SELECT count(*) FROM {self.table}"))
            time.sleep(_SETTLED_SECONDS)
        raise TimeoutError(f"The requests to {self.table} did not end: look for a stuck server.")

    def cpu_seconds(self) -> float:
        """The processor time that the PostgreSQL server, all of it, has used so far."""
        with self.connect() as connection:  # its backend lives as long as it is looked for
            backend = processes().get(connection.info.backend_pid)
        # None for a server on another machine, where this id may be that of something else.
        return cpu_seconds(backend.parent) if backend and backend.name == "postgres" else 0.0


class Process(NamedTuple):
    """A process, and the seconds that it and its children that ended have used."""

    name: str
    parent: int
    seconds: float


def processes() -> dict[int, Process]:
    """Every process of this machine by its id, as proc_pid_stat(5) describes them."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            name, _, numbers = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            fields = numbers.split()
            ticks = sum(map(int, fields[11:15]))
            found[int(folder.name)] = Process(name, int(fields[1]), ticks / _TICKS_PER_SECOND)
    return found


def cpu_seconds(process_id: int) -> float:
    """The processor time that a process and its children, also those that ended, have used."""
    while True:
        found = processes()
        family = {process_id}
        while more := {pid for pid in found if found[pid].parent in family} - family:
            family |= more
        seconds = sum(found[pid].seconds for pid in family)
        # A child that ended between the looks at its parent and at it would be missing.
        if family <= processes().keys():
            return seconds


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The address of a PostgreSQL: BENCH_DATABASE_URL, or a new one that waits for the disk."""
    if given := os.environ.get("BENCH_DATABASE_URL"):
        yield given
        return
    with postgresql.server(durable=True) as url:
        yield url


@contextlib.contextmanager
def database(server_url: str, name: str, table: str) -> Iterator[Database]:
    """A new database on that server."""
    name = f"billing_bench_{name}_{uuid.uuid4().hex[:8]}"
    on_server = Database(server_url, "")
    on_server.rows(f'CREATE DATABASE "{name}"')
    try:
        yield Database(f"{server_url.rpartition('/')[0]}/{quote(name)}", table)
    finally:
        on_server.rows(f'DROP DATABASE "{name}" WITH (FORCE)')


def manage(url: str, *arguments: str, root: Path = ROOT) -> str:
    """What a command of the service prints, on the database with this DATABASE_URL."""
    command = [sys.executable, "manage.py", *arguments]
    return run(command, {"DATABASE_URL": url, "DEBUG": "1"}, root=root)


def run(command: list[str], environment: dict[str, str], *, root: Path = ROOT) -> str:
    """What a command prints on its standard output; raises RuntimeError if it fails."""
    done = subprocess.run(  # noqa: S603 - our own commands
        command,
        cwd=root,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = f"{done.stdout}{done.stderr}"[-4000:]
        raise RuntimeError(f"{' '.join(command)} failed:\n{said}")
    return done.stdout
