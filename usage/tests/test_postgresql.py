"""The PostgreSQL of a run ends with the run, however that ends."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import psycopg2
import pytest
from django.db import connection

from usage.tests.postgresql import servers

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(connection.vendor == "postgresql", reason="this run has started one itself"),
    pytest.mark.skipif("TEST_DATABASE_URL" in os.environ, reason="no server is started"),
]


def start(command: str, *options: str) -> subprocess.Popen[str]:
    arguments = [
        sys.executable,
        "-m",
        "usage.tests.postgresql",
        *options,
        "--",
        "sh",
        "-c",
        command,
    ]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def running() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run that goes on until it is stopped, and the data folder of its server."""
    with start('echo $$ "$DATABASE_URL"; exec sleep 60') as run:
        assert run.stdout
        command, url = run.stdout.readline().split()
        try:
            yield run, Path(unquote(url.removeprefix("postgres://postgres@"))).parent
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(command), signal.SIGKILL)


def test_a_run_ends_like_its_command() -> None:
    with start("exit 7") as run:
        assert run.wait() == 7


def test_a_server_has_room_for_races() -> None:
    with (
        running() as (_, data),
        contextlib.closing(psycopg2.connect(host=str(data), user="postgres")) as database,
        database.cursor() as cursor,
    ):
        cursor.execute("SELECT current_setting('max_connections')::int, current_setting('fsync')")
        assert cursor.fetchone() == (300, "off")


def test_a_run_that_is_stopped_stops_its_server() -> None:
    with running() as (run, data):
        assert servers(data)
        run.terminate()
        assert run.wait() == 128 + signal.SIGTERM
    assert not servers(data)
    assert not data.exists()


def test_the_next_run_stops_the_server_of_a_killed_one() -> None:
    with running() as (run, data):
        run.kill()
        run.wait()
        assert servers(data)
    with start("exit 0", "--durable") as run:
        assert run.wait() == 0
    assert not servers(data)
    assert not data.exists()
