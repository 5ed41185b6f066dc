"""The servers under load: gunicorn, configured alike for the service and for each peer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import psutil

from benchmarks.databases import ROOT, Books, cpu_seconds

WORKERS = 2
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


class Server(NamedTuple):
    """A running gunicorn; `authorization` is what its callers show."""

    name: str
    port: int
    pid: int
    authorization: str
    database: Books
    start_seconds: float

    @property
    def url(self) -> str:
        """Where usage is reported."""
        return f"http://127.0.0.1:{self.port}/api/v1/usage/"

    def worker_megabytes(self) -> float:
        """The resident memory of its largest worker."""
        workers = psutil.Process(self.pid).children()
        return max(worker.memory_info().rss for worker in workers) / 2**20

    def cpu_seconds(self) -> float:
        """The processor time that its workers have used so far."""
        return cpu_seconds(self.pid)


@contextlib.contextmanager
def serving(
    name: str,
    application: str,
    database: Books,
    authorization: str,
    *,
    # One API key, which may hold half of a worker's threads, has all 16 connections of a load.
    threads: int = 32,
    environment: Mapping[str, str] = MappingProxyType({}),
    root: Path = ROOT,
) -> Iterator[Server]:
    """A server with gunicorn.conf.py, the same number of workers and threads for each side.

    `root` is the folder of the code.
    """
    port = free_port()
    settings = {"DEBUG": "0", "SECRET_KEY": "x" * 50, "ALLOWED_HOSTS": "127.0.0.1"}
    settings |= {"SECURE_SSL_REDIRECT": "0", "SECURE_COOKIES": "0", "PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "ignore:No directory at", "-m", "gunicorn", application]
    command += ["--bind", f"127.0.0.1:{port}", "--workers", str(WORKERS)]
    command += ["--threads", str(threads)]
    with tempfile.TemporaryFile("w+") as log:
        started = time.monotonic()
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            cwd=root,
            env={**os.environ, **settings, **database.environment, **environment},
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait(port, process)
            seconds = time.monotonic() - started
            yield Server(name, port, process.pid, authorization, database, seconds)
            log.seek(0)
            # A warning is that of a 503, which whoever sent the request counts.
            errors = "".join(line for line in log if " WARNING " not in line)
            _, traceback, text = errors.partition("Traceback")
            if traceback:
                raise RuntimeError(f"{name} failed under load:\n{traceback}{text[:4000]}")
        finally:
            _stop(process)


def free_port() -> int:
    """Return a port of the loopback that nothing listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a worker has answered something."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), _START_SECONDS) as connection,
        ):
            connection.sendall(
                b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            )
            if connection.recv(16):
                return
        time.sleep(0.01)
    raise RuntimeError(f"The server on port {port} did not start: run its command by hand.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    # Its own session is its own group: no worker outlives it.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(_STOP_SECONDS)
