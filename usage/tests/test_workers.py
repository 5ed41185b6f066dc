"""Workers share the connections that come, and no caller holds their threads for ever."""

from __future__ import annotations

import contextlib
import errno
import io
import select
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from gunicorn.config import Config  # type: ignore[import-untyped]  # no stubs
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from billing_project.workers import FairThreadWorker
from usage.api.shares import shares
from usage.database.deadline import circuit
from usage.ledger import slot
from usage.models.daily_usage import PAST_SLOT
from usage.tests.books import Books
from usage.tests.cluster import wait_until
from usage.tests.live import PATIENCE_SECONDS, Service

pytestmark = pytest.mark.once


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


def test_workers_of_a_service_have_numbers_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThreadWorker, "init_process", lambda _: None)
    monkeypatch.setattr(slot, "process_number", slot.process_number)
    monkeypatch.setattr(shares, "divide", lambda _: None)
    monkeypatch.setattr(circuit, "threads", circuit.threads)
    numbers = []
    for age in (1, 2, 3):
        started = worker(0)
        started.age, started.cfg = age, SimpleNamespace(threads=16)
        started.init_process()
        numbers.append(slot.process_number())
    assert {number % PAST_SLOT for number in numbers} == set(range(PAST_SLOT))


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


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What gunicorn's own part of a worker has read from connections, which it keeps open."""
    answered: list[bytes] = []

    def handle(_worker: ThreadWorker, conn: Any) -> bool:
        answered.append(conn.sock.recv(100))
        return True

    monkeypatch.setattr(ThreadWorker, "handle", handle)
    return answered


class Connection(SimpleNamespace):
    """What gunicorn knows of a connection, as far as it is needed here."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # a connection is itself only


@pytest.fixture
def connection() -> Iterator[tuple[Any, socket.socket]]:
    """A connection with one request, as gunicorn knows it, and the caller's end of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        parser = SimpleNamespace(unreader=SimpleNamespace(buf=io.BytesIO()))
        theirs.sendall(b"first")
        yield Connection(sock=ours, parser=parser, due=0.0, pauses=False), theirs


def threaded_worker(*, connections: int = 1) -> FairThreadWorker:
    busy = worker(connections)
    busy.cfg = SimpleNamespace(threads=2, timeout=30)
    busy.keepalived_conns, busy.pending_conns = deque(), deque()
    busy._in_hand, busy._leaving, busy._next_look = set(), set(), 0.0
    busy._paused = deque()
    busy.alive = True
    return busy


def test_a_thread_answers_what_follows_at_once(
    answered: list[bytes], connection: tuple[Any, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    conn, caller = connection
    stays = threaded_worker()
    follows = iter([b"second"])
    monkeypatch.setattr(
        "billing_project.workers.select.poll",
        lambda: SimpleNamespace(
            register=lambda *_: None,
            poll=lambda _: [caller.send(following) for following in follows],
        ),
    )

    assert stays.handle(conn) is True

    assert answered == [b"first", b"second"]


@pytest.mark.parametrize("why", ["others wait for a thread", "it is to end", "read ahead"])
def test_a_thread_does_not_stay_if(
    why: str, answered: list[bytes], connection: tuple[Any, socket.socket]
) -> None:
    conn, caller = connection
    leaves = threaded_worker(connections=3 if why == "others wait for a thread" else 1)
    leaves.alive = why != "it is to end"
    conn.parser.unreader.buf = io.BytesIO(b"more" if why == "read ahead" else b"")
    caller.settimeout(PATIENCE_SECONDS)

    assert leaves.handle(conn) is True
    caller.sendall(b"second")

    assert answered == [b"first"]


def test_a_worker_gives_a_sign_of_life_before_it_starts() -> None:
    config = Config()

    with contextlib.closing(FairThreadWorker(1, 1, [], None, 30, config, None).tmp) as sign:
        assert sign.last_update() <= time.monotonic()


# A worker that takes longer to start is killed, and so is the next: it must be a fork of a process
# that has loaded the service, for which a busy machine may need longer.
TIMEOUT = "--timeout 5"

HEAD = "POST /api/v1/usage/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.mark.live
@pytest.mark.parametrize(
    "part", [HEAD, f"{HEAD}Content-Length: 9\r\n\r\n"], ids=["headers", "body without a key"]
)
def test_slow_callers_hold_no_thread_for_ever(books: Books, part: str) -> None:
    with (
        Service(books, workers=1, threads=2, environment={"GUNICORN_CMD_ARGS": TIMEOUT}) as (
            service
        ),
        contextlib.ExitStack() as stack,
    ):
        for _ in range(5):
            caller = socket.create_connection(("127.0.0.1", service.port), PATIENCE_SECONDS)
            stack.enter_context(caller).sendall(part.encode())

        assert service.caller().get("/livez").status == 200


@pytest.mark.live
def test_connections_that_are_opened_ahead_hold_no_thread(books: Books) -> None:
    with Service(books, workers=1, threads=2) as service, contextlib.ExitStack() as stack:
        callers = [
            stack.enter_context(socket.create_connection(address, PATIENCE_SECONDS))
            for address in [("127.0.0.1", service.port)] * 40
        ]

        assert service.caller().get("/livez").status == 200

        callers[0].sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert callers[0].recv(12) == b"HTTP/1.1 200"


@pytest.mark.live
def test_a_connection_without_a_request_does_not_hold_up_a_stop(books: Books) -> None:
    with (
        Service(books, workers=1, threads=2) as service,
        socket.create_connection(("127.0.0.1", service.port), PATIENCE_SECONDS),
    ):
        assert service.caller().get("/livez").status == 200  # so that one is accepted too

        service.process.terminate()

        assert service.process.wait(20) == 0  # gunicorn's patience is 30 seconds


@pytest.mark.no_cover
@pytest.mark.live
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives up by itself")
def test_callers_that_read_no_answers_hold_no_thread_for_ever(books: Books) -> None:
    requests = b"GET /api/schema HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 400
    with (
        Service(books, workers=1, threads=1, environment={"GUNICORN_CMD_ARGS": TIMEOUT}) as (
            service
        ),
        socket.socket() as caller,
    ):
        (process,) = service.workers()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        caller.connect(("127.0.0.1", service.port))
        caller.sendall(requests)
        _, port = caller.getsockname()

        def has_it() -> bool:
            return any(port in conn.raddr for conn in process.net_connections())

        wait_until(has_it)
        wait_until(lambda: not has_it())

        assert service.caller().get("/livez").status == 200
        assert service.workers() == [process]


def test_a_worker_without_a_free_descriptor_takes_the_connection_later(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.EMFILE, "Too many open files")
    monkeypatch.setattr(
        ThreadWorker, "accept", Mock(side_effect=[full, None, OSError(errno.EBADF, "Bad")])
    )
    monkeypatch.setattr("billing_project.workers._FULL_SECONDS", 0)
    taking = worker(0)

    taking.accept(listener)
    taking.accept(listener)

    with pytest.raises(OSError, match="Bad"):
        taking.accept(listener)


@pytest.mark.live
def test_callers_that_do_not_close_hold_up_no_other(books: Books) -> None:
    with (
        Service(books, workers=1, threads=2, environment={"GUNICORN_CMD_ARGS": TIMEOUT}) as (
            service
        ),
        contextlib.ExitStack() as stack,
    ):
        before = service.workers()
        callers = [
            stack.enter_context(socket.create_connection(address, PATIENCE_SECONDS))
            for address in [("127.0.0.1", service.port)] * 20
        ]
        for caller in callers:
            caller.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        for caller in callers:
            assert caller.makefile("rb").read().startswith(b"HTTP/1.1 200 ")  # to its end

        assert service.caller().get("/livez").status == 200
        assert service.workers() == before


@pytest.mark.live
def test_a_refused_upload_holds_no_thread(books: Books) -> None:
    head = f"{HEAD}Authorization: Bearer {books.key}\r\nContent-Length: 1000\r\n\r\n["
    with (
        Service(books, workers=1, threads=2) as service,
        contextlib.ExitStack() as stack,
        selectors.DefaultSelector() as answers,
    ):
        for _ in range(5):  # one is within the key's share: its body is waited for
            caller = socket.create_connection(("127.0.0.1", service.port), PATIENCE_SECONDS)
            answers.register(stack.enter_context(caller), selectors.EVENT_READ)
            caller.sendall(head.encode())

        for _ in range(4):
            # Less than the worker's timeout, after which it receives nothing more.
            ((answer, _), *_) = answers.select(timeout=20)
            answers.unregister(answer.fileobj)
            said = answer.fileobj.makefile("rb").read()  # type: ignore[union-attr]  # a socket
            assert said.startswith(b"HTTP/1.1 429 ")
            assert b"\r\nConnection: close\r\n" in said
        assert service.caller().get("/livez").status == 200


@pytest.mark.live
def test_who_sends_everything_first_reads_the_refusal_too(live_service: Service) -> None:
    """The second half comes when the refusal has been sent."""
    half = b"x" * 2**20
    with socket.create_connection(("127.0.0.1", live_service.port), PATIENCE_SECONDS) as caller:
        caller.sendall(f"{HEAD}Content-Length: {2 * len(half)}\r\n\r\n".encode() + half)
        assert select.select([caller], [], [], PATIENCE_SECONDS)[0]
        caller.sendall(half)

        assert caller.makefile("rb").read().startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("conn_has", ["closed", "been silent", "sent on and on"])
def test_a_connection_that_is_left_is_closed_at_last(
    conn_has: str, connection: tuple[Any, socket.socket]
) -> None:
    conn, caller = connection
    conn.sock.recv(100)
    conn.close = conn.sock.close
    leaves = threaded_worker()
    with selectors.DefaultSelector() as leaves.poller:
        leaves.finish_request(conn, done(False))
        assert leaves.nr_conns == 1
        assert caller.recv(1) == b""

        if conn_has == "closed":
            caller.close()
        elif conn_has == "been silent":
            conn.timeout = 0.0
        else:
            caller.sendall(b"more")
            conn.due = 0.0
        leaves.wait_for_and_dispatch_events(0)
        leaves.murder_pending()

        assert leaves.nr_conns == 0
        assert conn.sock.fileno() == -1
        assert not leaves.poller.get_map()


@pytest.mark.parametrize("why", ["half a second is over", "the worker is to end"])
def test_a_connection_that_pauses_is_read_again_if(
    why: str, connection: tuple[Any, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    conn, _ = connection
    now = [100.0]
    monkeypatch.setattr("billing_project.workers.time.monotonic", lambda: now[0])
    conn.set_timeout = lambda: None
    conn.pauses, conn.timeout = True, 200.0
    pausing = threaded_worker()
    with selectors.DefaultSelector() as pausing.poller:
        pausing.finish_request(conn, done(True))
        now[0] += 0.4
        pausing.wait_for_and_dispatch_events(0)
        assert not pausing.poller.get_map()

        now[0] += 0.1
        if why == "the worker is to end":
            now[0], pausing.alive = 100.0, False
        pausing.wait_for_and_dispatch_events(0)

        assert [key.fileobj for key in pausing.poller.get_map().values()] == [conn.sock]
        assert list(pausing.keepalived_conns) == [conn]


def done(result: object) -> Future[object]:
    future = Future[object]()
    future.set_result(result)
    return future


@pytest.mark.live
def test_a_frozen_worker_is_replaced(books: Books) -> None:
    with Service(books, workers=1, environment={"GUNICORN_CMD_ARGS": TIMEOUT}) as service:
        (frozen,) = service.workers()
        frozen.suspend()

        assert service.caller().get("/livez").status == 200
        assert not frozen.is_running()
