"""A held socket: connections wait in it while the service restarts, and none is refused."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests
from django.conf import settings

from usage.tests.books import Books
from usage.tests.factories import usage_body
from usage.tests.live import PATIENCE_SECONDS

# What systemd does: the socket becomes descriptor 3, and LISTEN_PID names the process itself.
pytestmark = [pytest.mark.live, pytest.mark.once]  # starts processes
_HAND_OVER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
    " os.execv(sys.executable, [sys.executable, '-m', 'gunicorn', 'billing_project.wsgi'])"
)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        yield listener


@contextlib.contextmanager
def served(listener: socket.socket, books: Books) -> Iterator[psutil.Process]:
    """The service on a socket that outlives it, as deploy/systemd starts it."""
    environment = os.environ | {
        "DATABASE_URL": books.url,
        "DEBUG": "0",
        "ALLOWED_HOSTS": "127.0.0.1",
        "LISTEN_FDS": "1",
        "WEB_CONCURRENCY": "1",
    }
    command = [sys.executable, "-W", "ignore:No directory at", "-c", _HAND_OVER]
    with subprocess.Popen(
        [*command, str(listener.fileno())],
        cwd=settings.BASE_DIR,
        env=environment,
        pass_fds=[listener.fileno()],
    ) as process:
        try:
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_SECONDS)


class Caller(threading.Thread):
    """Posts one record after the other, each on a connection of its own."""

    def __init__(self, port: int, key: str) -> None:
        super().__init__(daemon=True)
        self.port, self.key = port, key
        self.outcomes: list[Any] = []
        self.ends = threading.Event()

    def run(self) -> None:
        while not self.ends.is_set():
            try:
                answer = requests.post(
                    f"http://127.0.0.1:{self.port}/api/v1/usage/",
                    json=usage_body(customer_id=1),
                    headers={"Authorization": f"Bearer {self.key}"},
                    timeout=PATIENCE_SECONDS,
                )
                self.outcomes.append(answer.status_code)
            except requests.RequestException as error:
                self.outcomes.append(error)

    def wait_for(self, answers: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.outcomes) < answers:
            assert time.monotonic() < deadline, self.outcomes
            time.sleep(0.01)


def test_no_request_is_lost_while_the_service_restarts(
    listener: socket.socket, books: Books
) -> None:
    caller = Caller(listener.getsockname()[1], books.key)
    with served(listener, books):
        caller.start()
        caller.wait_for(5)
    between = len(caller.outcomes)
    with served(listener, books):
        caller.wait_for(between + 5)
        caller.ends.set()
        caller.join(PATIENCE_SECONDS)

    assert set(caller.outcomes) == {201}


def test_no_request_is_lost_while_the_service_reloads(
    listener: socket.socket, books: Books
) -> None:
    caller = Caller(listener.getsockname()[1], books.key)
    with served(listener, books) as process:
        caller.start()
        caller.wait_for(5)
        replaced = process.children()
        process.send_signal(signal.SIGHUP)
        _, alive = psutil.wait_procs(replaced, PATIENCE_SECONDS)
        caller.wait_for(len(caller.outcomes) + 5)
        caller.ends.set()
        caller.join(PATIENCE_SECONDS)

    assert not alive
    assert set(caller.outcomes) == {201}
