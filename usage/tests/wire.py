"""A relay in front of PostgreSQL that counts statements, and cuts connections as a test says."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote, urlsplit

# The file name of the Unix socket that libpq looks for in a folder given as host.
_SOCKET = ".s.PGSQL.5432"
_SIMPLE_QUERY = b"Q"

# The fate of a statement: forwarded; dropped, and cut; or forwarded, and cut before the answer.
FORWARD, DROP, LOSE_ANSWER = "forward", "drop", "lose answer"
Fate = str


class Relay:
    """Listens on a Unix socket of its own; `url` is the DATABASE_URL through it.

    Each simple query is one round trip: psycopg2 sends nothing else after it is connected.
    """

    def __init__(self, url: str) -> None:
        self.queries: list[str] = []
        self.fate: Callable[[str], Fate] = lambda sql: FORWARD
        self.behind = url
        self._behind = urlsplit(url)
        self._folder = tempfile.TemporaryDirectory(prefix="wire-")
        address = self._behind.netloc.rpartition("@")[0] + "@" + quote(self._folder.name, safe="")
        self.url = self._behind._replace(netloc=address).geturl()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        path = str(Path(self._folder.name) / _SOCKET)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        shut(self._listener)
        self._listener.close()
        for sock in self._sockets:
            shut(sock)
        for thread in self._threads:
            thread.join(5)
        self._folder.cleanup()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was shut
            while True:
                client, _ = self._listener.accept()
                server = self._connected()
                self._sockets += [client, server]
                connection = _Connection(self, client, server)
                self._start(connection.forward)
                self._start(connection.answer)

    def _connected(self) -> socket.socket:
        host = unquote(self._behind.netloc.rpartition("@")[2])
        if not host.startswith("/"):
            return socket.create_connection((self._behind.hostname, self._behind.port or 5432))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(Path(host) / _SOCKET))
        return server


class _Connection:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, relay: Relay, client: socket.socket, server: socket.socket) -> None:
        self.relay = relay
        self.client = client
        self.server = server
        self.mute = False

    def forward(self) -> None:
        """Pass the client's messages on, one by one (PostgreSQL's manual, chapter 54)."""
        with contextlib.suppress(OSError), self.client, self.client.makefile("rb") as stream:
            kind = b""  # the first message has no type byte
            while length := stream.read(4):
                body = stream.read(int.from_bytes(length) - 4)
                fate = self._fate(body) if kind == _SIMPLE_QUERY else FORWARD
                if fate == DROP:
                    break
                self.mute = fate == LOSE_ANSWER
                self.server.sendall(kind + length + body)
                kind = stream.read(1)
        shut(self.server)

    def _fate(self, body: bytes) -> Fate:
        sql = body.rstrip(b"\0").decode()
        self.relay.queries.append(sql)
        return self.relay.fate(sql)

    def answer(self) -> None:
        with contextlib.suppress(OSError), self.server:
            while (data := self.server.recv(65536)) and not self.mute:
                self.client.sendall(data)
        shut(self.client)


def shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed already
        sock.shutdown(socket.SHUT_RDWR)
