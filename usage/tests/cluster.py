"""A PostgreSQL primary with a standby, for tests that freeze, kill, cut and promote them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg2

from usage.tests import postgresql
from usage.tests.books import Books, filled

PATIENCE_SECONDS = 120.0
_CONFIGURATION = {
    "max_connections": "100",
    "unix_socket_permissions": "0777",
    "listen_addresses": "''",
    "wal_receiver_timeout": "0",  # a frozen server stays connected, as behind a silent network
    "wal_sender_timeout": "0",
    "wal_retrieve_retry_interval": "100ms",
}
_STANDBY_NAME = "standby"


class Node:
    """One server: a folder with its data, its socket and its log."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        folder.chmod(0o777)  # the user that the server runs as may be another
        self.folder = folder
        self.data = folder / "data"
        self.url = self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgres://postgres@{quote(str(self.folder), safe='')}/{database}"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the user that servers run as; wait for its end."""
        with (self.folder / "programs.log").open("a") as log:
            # Not through pipes: the server that pg_ctl starts would keep them open.
            subprocess.run(
                [postgresql.PROGRAMS / program, *arguments],
                check=True,
                timeout=PATIENCE_SECONDS,
                stdout=log,
                stderr=log,
                user=postgresql.server_user(),
                cwd=self.folder,
            )

    def initialise(self) -> None:
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        self.run("initdb", "-D", str(self.data), *options)

    def configure(self, configuration: dict[str, str]) -> None:
        """Add to the configuration; it counts from the next start on."""
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in configuration.items())

    def start(self) -> None:
        socket, log = f"-k {self.folder}", str(self.folder / "log")
        self.run("pg_ctl", "-D", str(self.data), "-w", "-o", socket, "-l", log, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.data), "-w", "stop")

    def set(self, name: str, value: str) -> None:
        """Change the configuration of the running server, for good."""
        self.rows(f"ALTER SYSTEM SET {name} = '{value}'")
        self.rows("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Make the standby a primary, and wait until it is."""
        self.run("pg_ctl", "-D", str(self.data), "-w", "promote")

    def processes(self) -> list[psutil.Process]:
        """Return the server's processes, the postmaster first; none if it is down."""
        servers = postgresql.servers(self.data)
        children = [child for server in servers for child in server.children(recursive=True)]
        return servers + children

    def freeze(self) -> None:
        """Stop every process where it is; the kernel still accepts connections for the server."""
        _signal(self.processes(), signal.SIGSTOP)

    def thaw(self) -> None:
        _signal(self.processes(), signal.SIGCONT)

    def lose(self) -> None:
        """Kill every process at once, as when the machine loses its power."""
        _signal(self.processes(), signal.SIGKILL)
        wait_until(lambda: not postgresql.servers(self.data))
        # A new postmaster refuses to start while it takes the old one for alive.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def connect(self) -> Any:
        """Return a bare connection, on which each statement commits by itself."""
        connection = psycopg2.connect(self.url)
        connection.autocommit = True
        return connection

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return what one statement, on a connection of its own, brings."""
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def value(self, sql: str) -> Any:
        """Return the one value that a statement brings."""
        ((value,),) = self.rows(sql)
        return value


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def wait_until(is_so: Callable[[], Any]) -> None:
    """Return once it is so; the tests order what happens, and this waits for it."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{is_so} did not come true in {PATIENCE_SECONDS} seconds.")
        time.sleep(0.01)


class Cluster:
    """A primary, and a standby that streams from it."""

    def __init__(
        self, folder: Path, copy_of: Path | None, *, synchronous: bool, durable: bool
    ) -> None:
        self.primary = Node(folder / "primary")
        self.standby = Node(folder / "standby")
        self.books: Books
        self._copy_of = copy_of
        self._synchronous = synchronous
        self._configuration = _CONFIGURATION | ({} if durable else postgresql.NOT_DURABLE)

    def start(self) -> None:
        if self._copy_of:
            # Not shutil: the user that the server runs as keeps the files.
            subprocess.run(["cp", "-a", self._copy_of / "data", self.primary.data], check=True)
        else:
            self.primary.initialise()
        self.primary.configure(self._configuration)
        self.primary.start()

    def add_standby(self) -> None:
        """Copy the primary as it is now, and let the copy stream what follows."""
        self.primary.run(
            *("pg_basebackup", "-D", str(self.standby.data), "--checkpoint=fast", "--no-sync"),
            *("--write-recovery-conf", "-d", self._conninfo(self.primary)),
        )
        self.standby.start()
        if self._synchronous:
            self.primary.set("synchronous_standby_names", _STANDBY_NAME)
        state = "sync" if self._synchronous else "async"
        sql = f"SELECT count(*) FROM pg_stat_replication WHERE sync_state = '{state}'"
        wait_until(lambda: self.primary.value(sql) == 1)

    def _conninfo(self, node: Node) -> str:
        return f"host={node.folder} user=postgres application_name={_STANDBY_NAME}"

    def cut(self) -> None:
        """Cut the line between the two: the standby gets nothing more, and stays as it is."""
        self.standby.set("primary_conninfo", "")
        wait_until(lambda: self.primary.value("SELECT count(*) FROM pg_stat_replication") == 0)

    def hold_commits(self) -> None:
        """Let every commit wait, for a standby that does not exist."""
        self.primary.set("synchronous_standby_names", "missing")
        wait_until(lambda: self.primary.value("SHOW synchronous_standby_names") == "missing")

    def release_commits(self) -> None:
        self.primary.set("synchronous_standby_names", "")

    def end_waiting_commits(self) -> None:
        """End the server processes that wait for a standby, as a crash of one would."""
        sql = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        self.primary.rows(f"SELECT pg_terminate_backend(pid, 5000) {sql}")

    def waiting_pids(self) -> set[int]:
        """Return the server processes whose commits wait for the standby."""
        sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        return {pid for (pid,) in self.primary.rows(sql)}

    def waiting_commits(self) -> int:
        return len(self.waiting_pids())

    def filled(self) -> Books:
        """Return books on the primary."""
        if self._copy_of:
            key = (self._copy_of / "key").read_text()
            return Books(self.primary.url_of("books"), key)
        self.primary.rows("CREATE DATABASE books")
        return filled(self.primary.url_of("books"))

    @property
    def url(self) -> str:
        """The DATABASE_URL of the books on whichever of the two is the primary."""
        hosts = quote(f"{self.primary.folder},{self.standby.folder}", safe="")
        return f"postgres://postgres@/books?host={hosts}&target_session_attrs=read-write"

    def stop(self) -> None:
        for node in (self.standby, self.primary):
            node.thaw()
            node.lose()


def make(folder: Path) -> None:
    """Make what `cluster` copies: a server that is down, with books, and their key."""
    folder.mkdir()
    with cluster(durable=True) as servers:  # a copy adds what makes it less durable
        (folder / "key").write_text(servers.filled().key)
        servers.primary.stop()
        subprocess.run(["cp", "-a", servers.primary.data, folder / "data"], check=True)


@contextlib.contextmanager
def cluster(
    copy_of: Path | None = None, *, synchronous: bool = True, durable: bool = False
) -> Iterator[Cluster]:
    """A primary by itself, to which `add_standby` adds the other; both are deleted at the end.

    A copy of what `make` made takes a fraction of the time of a new primary and its books.
    """
    with postgresql.folder(durable=durable) as folder:
        folder.chmod(0o755)
        running = Cluster(folder, copy_of, synchronous=synchronous, durable=durable)
        try:
            running.start()
            yield running
        finally:
            running.stop()
