"""A real HTTP server on a free port that answers properly, or fails in the way a test asks for."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from billing_client.fake.service import MemoryService, problem

KEY = "bk_0123456789abcdef_not_a_real_key"
# Self-signed for localhost and of no worth: it only has to be distrusted.
CERTIFICATE = Path(__file__).with_name("localhost.pem")


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came over the wire, and the number of the connection it came on."""

    connection: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        value: str | None = (
            BytesHeaderParser().parsebytes(self.head.partition(b"\r\n")[2]).get(name)
        )
        return value

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()


class Exchange:
    """One request and the socket to answer it on; the connection is closed after it unless kept."""

    def __init__(self, server: FaultyServer, sock: socket.socket, request: Seen) -> None:
        self.server = server
        self.sock = sock
        self.request = request
        self.keep = False

    def honest(self) -> bytes:
        """Record the usage, and give the bytes of the proper answer."""
        status, body, headers = self.server.service.answer(self.request.body)
        return message(status, json.dumps(body).encode(), headers)


_TLS_HANDSHAKE = b"\x16"

Behaviour = Callable[[Exchange], None]


class FaultyServer:
    """Takes the behaviour for each request from ``script``; answers honestly when that is empty."""

    def __init__(self, *, tls: bool = False) -> None:
        self.service = MemoryService(unknown_customers={404}, any_time=True)
        self.script: deque[Behaviour] = deque()
        self.seen: list[Seen] = []
        self.stopping = threading.Event()
        self.left_alone = threading.Event()
        self._tls = tls
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.leave()
        self.drop_connections()
        for thread in self._threads:
            thread.join(5)

    def leave(self) -> None:
        """Take no more connections."""
        with suppress(OSError):  # left already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def drop_connections(self) -> None:
        """Close every connection, as a service does that is being deployed."""
        with self._lock:
            for sock in self._open:
                shut(sock)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        for number in range(100_000):
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(sock)
            self._start(self._serve, number, sock)

    def _serve(self, number: int, sock: socket.socket) -> None:
        try:
            if self._tls:
                sock = self._wrapped(sock)
            if self.script and self.script[0] is cut_before_reading:
                self.script.popleft()
                # Once bytes are there: an earlier reset is one of the connection, not the request.
                sock.recv(1, socket.MSG_PEEK)
                return
            while self._exchange(number, sock):
                pass
        except OSError:
            pass  # the client hung up, which is what some tests are about
        finally:
            with self._lock:
                self._open.discard(sock)
                if not self._open:
                    self.left_alone.set()
            reset(sock)

    def _exchange(self, number: int, sock: socket.socket) -> bool:
        request = read_request(number, sock)
        if request is None:
            self._not_http(sock)
            return False
        with self._lock:
            self.seen.append(request)
            behaviour = self.script.popleft() if self.script else honest
        exchange = Exchange(self, sock, request)
        behaviour(exchange)
        return exchange.keep

    def _not_http(self, sock: socket.socket) -> None:
        """The client hung up, or speaks TLS."""
        if self.script and self.script[0] is cut_in_handshake:
            self.script.popleft()
        else:
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        shut(sock)
        self.stopping.wait(0.02)  # or the reset would overtake the answer

    def _wrapped(self, sock: socket.socket) -> socket.socket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        with self._lock:
            self._open.discard(sock)
        sock = context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=True)
        with self._lock:
            self._open.add(sock)
        return sock


def read_request(number: int, sock: socket.socket) -> Seen | None:
    data = bytearray()
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        if not part:
            return None
        data += part
        if data.startswith(_TLS_HANDSHAKE):
            return None
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    length = int(Seen(number, head, b"").header("Content-Length") or 0)
    rest = bytearray(body)
    while len(rest) < length:
        part = sock.recv(65536)
        if not part:
            return None
        rest += part
    return Seen(number, head, bytes(rest))


def shut(sock: socket.socket) -> None:
    with suppress(OSError):  # the other side was faster
        sock.shutdown(socket.SHUT_RDWR)


def reset(sock: socket.socket) -> None:
    """Close at once and without a goodbye."""
    with suppress(OSError):  # closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def message(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    fields = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Whatever"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


# Behaviours


def honest(exchange: Exchange) -> None:
    exchange.sock.sendall(exchange.honest())
    exchange.keep = True


def reply(status: int, body: bytes | object = b"", **headers: str) -> Behaviour:
    """A fixed answer; header names are written with underscores."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}

    def behaviour(exchange: Exchange) -> None:
        exchange.sock.sendall(message(status, content, fields))
        exchange.keep = True

    behaviour.__name__ = f"{status} {content[:40]!r}"
    return behaviour


def refuse(
    status: int, code: str, *, more: dict[str, Any] | None = None, **headers: str
) -> Behaviour:
    return reply(
        status,
        problem(status, code, **(more or {})),
        Content_Type="application/problem+json",
        **headers,
    )


def after_commit(behaviour: Behaviour) -> Behaviour:
    """Record the usage, then fail: the answer is lost, the fact is not."""

    def committed(exchange: Exchange) -> None:
        exchange.honest()
        behaviour(exchange)

    committed.__name__ = f"{behaviour.__name__} after commit"
    return committed


def cut_before_reading(exchange: Exchange) -> None:
    """Recognised when a connection comes in, so it must be met by a new one."""
    raise AssertionError(f"{exchange.request} came on a kept connection")


def cut_in_handshake(exchange: Exchange) -> None:
    """Recognised when a client speaks TLS to a server that does not."""
    raise AssertionError(f"{exchange.request} is plain HTTP")


def cut(exchange: Exchange) -> None:
    """Read all and answer nothing."""


def stall(exchange: Exchange) -> None:
    exchange.server.stopping.wait(20)


def truncate(exchange: Exchange) -> None:
    whole = exchange.honest()
    exchange.sock.sendall(whole[: len(whole) - 20])
    exchange.sock.shutdown(socket.SHUT_WR)
    exchange.server.stopping.wait(0.05)


def trickle_body(exchange: Exchange) -> None:
    head, _, body = exchange.honest().partition(b"\r\n\r\n")
    exchange.sock.sendall(head + b"\r\n\r\n")
    _slowly(exchange, body)


def trickle_head(exchange: Exchange) -> None:
    _slowly(exchange, exchange.honest())


def _slowly(exchange: Exchange, data: bytes) -> None:
    for byte in data:
        exchange.sock.sendall(bytes([byte]))
        if exchange.server.stopping.wait(0.05):
            return


def endless(exchange: Exchange) -> None:
    exchange.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(100_000):
        exchange.sock.sendall(b" " * 65536)


def garbage_chunks(exchange: Exchange) -> None:
    exchange.sock.sendall(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n")


def raw(data: bytes) -> Behaviour:
    """An answer byte for byte, in HTTP or not."""

    def behaviour(exchange: Exchange) -> None:
        exchange.sock.sendall(data)
        exchange.sock.shutdown(socket.SHUT_WR)
        exchange.server.stopping.wait(0.05)

    behaviour.__name__ = f"{data[:40]!r}"
    return behaviour


not_http = raw(b"SSH-2.0-OpenSSH_9.2\r\n")


def garbage_tls(exchange: Exchange) -> None:
    """Bytes that no key decrypts, below the layer that would encrypt them."""
    socket.socket.sendall(exchange.sock, b"\x17\x03\x03\x00\x20" + b"?" * 32)
    exchange.server.stopping.wait(0.05)


def chunked(exchange: Exchange) -> None:
    """A proper answer of unknown length."""
    status, body, _ = exchange.server.service.answer(exchange.request.body)
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Fine\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    exchange.sock.sendall(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
    exchange.keep = True


def for_another(exchange: Exchange) -> None:
    """The answer that belongs to another caller."""
    body = (
        exchange.honest()
        .partition(b"\r\n\r\n")[2]
        .replace(b'"request_id": "', b'"request_id": "not-')
    )
    exchange.sock.sendall(message(201 if b"results" not in body else 207, body))
    exchange.keep = True
