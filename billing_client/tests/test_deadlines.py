"""No peer holds a caller longer than the client was told, however it goes about it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from typing import Any

import pytest

from billing_client import BillingClient, UnavailableError
from billing_client.config import Limits
from billing_client.connections import Attempt, _Timed, _TimedResponse, current_attempt
from billing_client.tests.conftest import Sleeps
from billing_client.tests.faulty import (
    KEY,
    Behaviour,
    Exchange,
    FaultyServer,
    chunked,
    endless,
    honest,
    reply,
    stall,
    trickle_body,
    trickle_head,
)
from billing_client.transport import Transport

pytestmark = pytest.mark.live  # waits for servers
FACT: dict[str, Any] = {
    "customer_id": 123,
    "service": "Database Hosting",
    "units_consumed": 58,
    "price_per_unit": "0.05",
}


@contextmanager
def given_up() -> Iterator[None]:
    """Assert that a call ended long before the 60 seconds that it would take without a deadline."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("slow", [stall, trickle_head, trickle_body, endless])
def test_the_read_timeout_is_for_the_whole_answer(server: FaultyServer, slow: Behaviour) -> None:
    """A byte comes every 0.05 seconds, which a socket's own timeout would wait for for ever."""
    server.script.append(slow)
    billing = BillingClient(server.url, KEY, read_timeout=0.3, attempts=1)
    with billing, given_up(), pytest.raises(UnavailableError) as caught:
        billing.record_usage(**FACT)
    assert caught.value.ambiguous is True


@pytest.mark.parametrize("slow", [stall, trickle_head, trickle_body])
def test_the_total_cuts_an_attempt_short(server: FaultyServer, slow: Behaviour) -> None:
    server.script.append(slow)
    billing = BillingClient(server.url, KEY, read_timeout=60, total_timeout=0.4)
    with billing, given_up(), pytest.raises(UnavailableError) as caught:
        billing.record_usage(**FACT)
    assert caught.value.attempts == 1


def test_attempts_and_waits_together_keep_to_the_total(
    server: FaultyServer, sleeps: Sleeps
) -> None:
    server.script.extend([reply(503, Retry_After="10")] * 9)
    billing = BillingClient(server.url, KEY, attempts=9, total_timeout=30)
    with billing, pytest.raises(UnavailableError) as caught:
        billing.record_usage(**FACT)
    assert caught.value.attempts == 3
    assert 20 <= sum(sleeps) < 30


def test_an_attempt_after_an_overlong_sleep_still_is_one(
    server: FaultyServer, sleeps: Sleeps
) -> None:
    """A machine that was suspended wakes up after the deadline."""
    server.script.append(reply(503))
    sleeps.overslept = 100
    with BillingClient(server.url, KEY) as billing:
        assert billing.record_usage(**FACT).status == "created"


@contextmanager
def peer(*, pause: float) -> Iterator[str]:
    """The address of a peer that reads a little, makes a pause, and never answers."""
    over = threading.Event()

    def read() -> None:
        with listener.accept()[0] as sock:
            while not over.wait(pause) and sock.recv(16_384):
                pass

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        reader = threading.Thread(target=read)
        reader.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        over.set()
        reader.join()


@pytest.mark.parametrize("pause", [0.02, 60], ids=["slowly", "never"])
def test_a_peer_that_does_not_read_is_given_up(pause: float) -> None:
    """Each slice of a body in time would not be enough: there are hundreds."""
    with peer(pause=pause) as url, given_up():
        transport = Transport(url, KEY, Limits(connect=60, read=60))
        request = transport.prepare(b"x" * 16_000_000, trace_id="t")
        with pytest.raises(UnavailableError, match="time") as caught:
            transport.post(request, seconds=0.3)
        transport.close()
    assert caught.value.ambiguous is True


@pytest.fixture
def deaf() -> Iterator[tuple[str, int]]:
    """An address that accepts no connection: its queue is full, and no refusal is sent."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_a_host_of_many_addresses_is_given_no_more_than_the_total(
    deaf: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, *[deaf] * 100)
    billing = BillingClient("http://billing.localhost", KEY, total_timeout=0.4)
    with billing, given_up(), pytest.raises(UnavailableError, match="time") as caught:
        billing.record_usage(**FACT)
    assert caught.value.ambiguous is False


def test_an_address_that_does_not_answer_leaves_the_others_their_turn(
    deaf: tuple[str, int], server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, deaf, ("127.0.0.1", server.port))
    billing = BillingClient("http://billing.localhost", KEY, connect_timeout=0.1, attempts=1)
    with billing:
        assert billing.record_usage(**FACT).status == "created"


def test_a_host_without_an_address_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch)
    billing = BillingClient("http://billing.localhost", KEY, attempts=1)
    with billing, pytest.raises(UnavailableError, match="has no address") as caught:
        billing.record_usage(**FACT)
    assert caught.value.ambiguous is False


@pytest.fixture
def attempt(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """An attempt of 4 seconds on a clock that only the test moves."""
    now = [1000.0]
    monkeypatch.setattr("billing_client.connections.monotonic", lambda: now[0])
    token = current_attempt.set(Attempt(4))
    yield now
    current_attempt.reset(token)


def test_what_connecting_took_is_not_given_again_to_the_handshake(
    server: FaultyServer, attempt: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.socket.connect

    def slowly(sock: socket.socket, address: tuple[str, int]) -> None:
        connect(sock, address)
        attempt[0] += 3

    monkeypatch.setattr(socket.socket, "connect", slowly)
    with _Timed("127.0.0.1", server.port, timeout=3)._new_conn() as sock:
        assert sock.gettimeout() == 1


def test_what_sending_took_is_not_given_again_to_the_answer(
    server: FaultyServer, attempt: list[float]
) -> None:
    connection = _Timed("127.0.0.1", server.port, timeout=3)
    connection.connect()
    attempt[0] += 3
    with _TimedResponse(connection.sock, method="POST") as answer:
        reader: Any = answer.fp
        assert reader.raw._ends == attempt[0] + 1
    connection.close()


def test_each_slice_of_a_body_is_given_what_the_others_left(
    server: FaultyServer, attempt: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float | None] = []

    def slowly(connection: _Timed, _: bytes) -> None:
        given.append(connection.sock.gettimeout())
        attempt[0] += 1

    monkeypatch.setattr(HTTPConnection, "send", slowly)
    connection = _Timed("127.0.0.1", server.port, timeout=3)
    connection.connect()
    connection.send(b"x" * 150_000)
    assert given == [4, 3, 2]
    connection.close()


@pytest.mark.usefixtures("attempt")
def test_a_small_request_is_not_held_back_for_more(server: FaultyServer) -> None:
    with _Timed("127.0.0.1", server.port, timeout=3)._new_conn() as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.usefixtures("attempt")
def test_a_proxy_answers_within_the_connect_timeout(server: FaultyServer) -> None:
    connection = _Timed("127.0.0.1", server.port, timeout=3)
    connection.connect()
    connection.send(b"CONNECT")
    assert connection.sock.gettimeout() == 3
    connection.close()


def test_what_a_proxy_took_is_not_given_again_to_the_handshake(
    server: FaultyServer, attempt: list[float]
) -> None:
    def slowly(exchange: Exchange) -> None:
        attempt[0] += 3
        exchange.sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        exchange.keep = True

    server.script.append(slowly)
    connection = _Timed("127.0.0.1", server.port, timeout=3.5)
    connection.set_tunnel("billing.localhost", 443)
    connection.connect()
    assert connection.sock.gettimeout() == 1
    connection.close()


def test_time_that_is_over_before_the_first_byte_sends_nothing(server: FaultyServer) -> None:
    transport = Transport(server.url, KEY, Limits(connect=1, read=60))
    with pytest.raises(UnavailableError):
        transport.post(transport.prepare(b"{}", trace_id="t"), seconds=1e-9)
    transport.close()
    assert server.seen == []


def test_the_end_of_one_answer_does_not_shorten_the_next(
    billing: BillingClient, server: FaultyServer
) -> None:
    """A kept connection's socket has the timeout that was left at the last byte."""
    server.script.extend([honest, chunked, honest])
    for _ in range(3):
        assert billing.record_usage(**FACT).status == "created"
    assert {request.connection for request in server.seen} == {0}
