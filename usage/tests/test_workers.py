"""Workers share the connections that come, however few processors wake them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from billing_project.workers import FairThreadWorker


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listener with one connection to be taken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with socket.create_connection(listener.getsockname()):
            yield listener


def worker(connections: int) -> FairThreadWorker:
    worker = FairThreadWorker.__new__(FairThreadWorker)
    worker.nr_conns = connections
    return worker


@pytest.fixture
def hesitate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def hesitate(act: Callable[[float], object]) -> None:
        monkeypatch.setattr("billing_project.workers.time.sleep", act)

    return hesitate


def test_a_worker_hesitates_longer_the_more_it_has(
    listener: socket.socket, hesitate: Callable[..., None]
) -> None:
    seconds: list[float] = []
    hesitate(seconds.append)
    listener.accept()[0].close()  # there is none left to take

    for connections in (0, 5, 16, 1000):
        worker(connections).accept(listener)

    assert seconds == pytest.approx([0, 0.00025, 0.0008, 0.0008])


def test_what_another_worker_takes_meanwhile_is_its_own(
    listener: socket.socket, hesitate: Callable[..., None]
) -> None:
    hesitate(lambda seconds: listener.accept()[0].close())
    busy = worker(3)

    busy.accept(listener)

    assert busy.nr_conns == 3
