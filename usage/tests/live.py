"""The service as it runs in production: gunicorn, its worker processes, and callers at once."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self, TypeVar

import psutil
from django.conf import settings

from usage.tests.books import CUSTOMERS, Books

T = TypeVar("T")
# Only what hangs needs so long: on a busy machine several services start at once.
PATIENCE_SECONDS = 120.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """One connection to the service, kept between its requests."""

    def __init__(self, port: int, key: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def post(self, body: Any) -> Answer:
        """Post a value as JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._ask("POST", "/api/v1/usage/", content)

    def ready(self) -> Answer:
        return self.get("/readyz")

    def get(self, path: str) -> Answer:
        return self._ask("GET", path, None)

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        try:
            self.connection.request(method, path, body, self.headers)
            response = self.connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        except (http.client.HTTPException, OSError):
            self.connection.close()
            raise


class Service:
    """A running service on a database; stopped at the end of the with block.

    Its workers are forks of a process that has loaded the service, which takes half a second of
    processor time; without `preload` each loads it itself, as in production.
    """

    def __init__(
        self,
        books: Books,
        *,
        url: str | None = None,
        workers: int = 2,
        threads: int = 32,  # one API key may hold half of them
        preload: bool = True,
        application: str = "billing_project.wsgi",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.books = books
        self._environment = environment or {}
        self.port = 0
        self._url = url or books.url
        self._application = application
        self._workers = workers
        self._options = ["--workers", str(workers), "--threads", str(threads)]
        self._options += ["--preload"] * preload
        self._customers = iter(CUSTOMERS)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._log = self._stack.enter_context(tempfile.TemporaryFile("w+"))
            self.process = self._stack.enter_context(self._started())
            self._stack.callback(self.kill)
            # The socket listens already, so this waits until the first worker answers.
            answer = self.caller().ready()
            assert answer.status == 200, f"{answer.body!r}\n{self.log()}"
            # The others are started a little later.
            ends = time.monotonic() + PATIENCE_SECONDS
            while len(self.workers()) < self._workers and time.monotonic() < ends:
                time.sleep(0.01)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _started(self) -> subprocess.Popen[str]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            return subprocess.Popen(
                [
                    *(sys.executable, "-W", "ignore:No directory at", "-m", "gunicorn"),
                    *(self._application, "--bind", f"fd://{listener.fileno()}"),
                    *self._options,
                ],
                cwd=settings.BASE_DIR,
                env=os.environ
                | {"DATABASE_URL": self._url, "DEBUG": "0", "ALLOWED_HOSTS": "127.0.0.1"}
                | {**self._environment},
                pass_fds=[listener.fileno()],
                stderr=self._log,
                text=True,
            )

    def kill(self) -> None:
        """End the service at once, workers and all."""
        # Not politely: gunicorn waits for kept connections, and its SIGQUIT can hang (a signal
        # handler of its workers takes a lock that the interrupted code may hold).
        with contextlib.suppress(psutil.NoSuchProcess):  # a test may have killed it already
            master = psutil.Process(self.process.pid)
            for process in [master, *master.children()]:
                process.kill()
        self.process.wait(PATIENCE_SECONDS)

    def log(self) -> str:
        """Return the service's log."""
        self._log.seek(0)
        return self._log.read()

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "serve_metrics" not in child.cmdline()]

    def metrics_server(self) -> psutil.Process:
        """Return the process that serves metrics."""
        children = psutil.Process(self.process.pid).children()
        (server,) = (child for child in children if "serve_metrics" in child.cmdline())
        return server

    def stop_workers(self) -> None:
        """End every worker as a deployment does, and wait for that; gunicorn starts new ones."""
        workers = self.workers()
        for worker in workers:
            worker.terminate()
        _, alive = psutil.wait_procs(workers, PATIENCE_SECONDS)
        assert not alive, self.log()

    def kill_workers(self) -> None:
        """End every worker at once by SIGKILL; gunicorn starts new ones."""
        for worker in self.workers():
            worker.kill()

    def customer(self) -> int:
        """Return the id of a customer whom no other test knows."""
        return next(self._customers)

    def caller(self) -> Caller:
        caller = Caller(self.port, self.books.key)
        self._stack.callback(caller.connection.close)
        return caller

    def callers(self, number: int) -> list[Caller]:
        return [self.caller() for _ in range(number)]


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Make these calls from as many threads, all released at one moment; return the results."""
    barrier = threading.Barrier(len(calls))

    def released(call: Callable[[], T]) -> T:
        barrier.wait(PATIENCE_SECONDS)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(released, calls))
