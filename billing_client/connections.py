"""Connections that end with their attempt, and know whether any byte of it was sent.

A socket's timeout starts anew with every byte, so a peer that sends slowly would hold a caller
for hours; and the type of an exception does not tell whether anything was sent. Both are known
only here, below requests.
"""

from __future__ import annotations

import io
import queue
import socket
from collections import deque
from contextvars import ContextVar
from http.client import HTTPResponse
from time import monotonic
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import LocationParseError, NewConnectionError

# urllib3 closes more idle connections than this, with a warning for each.
KEPT_CONNECTIONS = 64
_SLICE = 64 * 1024


class Attempt:
    """One attempt: when it ends, and whether any of its bytes may have left.

    ``sent`` starts as True: a way to the service that is not known here, such as a SOCKS proxy,
    may have sent it.
    """

    def __init__(self, seconds: float) -> None:
        self._ends = monotonic() + seconds
        self.sent = True

    def left(self) -> float:
        """Seconds left. Raises TimeoutError if there are none."""
        return _left(self._ends)


current_attempt: ContextVar[Attempt] = ContextVar("current_attempt")


def _left(ends: float) -> float:
    seconds = ends - monotonic()
    if seconds <= 0:
        raise TimeoutError("the time allowed for the attempt is over")
    return seconds


class _TimedReader(io.RawIOBase):
    """Reads a socket until a moment, not until a silence."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, ends: float) -> None:
        self._sock = sock
        self._raw = raw
        self._ends = ends

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._ends))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(HTTPResponse):
    """The socket's timeout counts for the whole answer, from its first byte to its last."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        left = current_attempt.get().left()
        ends = monotonic() + min(sock.gettimeout() or left, left)
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach(), ends))


class _Timed(HTTPConnection):
    response_class = _TimedResponse
    # A debuglevel set on http.client would print the request, and with it the key.
    debuglevel = 0

    def _new_conn(self) -> socket.socket:
        """Try the host's addresses in turn, as urllib3 does, but not beyond the attempt's end."""
        failure = OSError(f"{self.host} has no address")
        try:
            host = self._dns_host.strip("[]")
            found = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
            for family, kind, protocol, _, address in found:
                try:
                    return self._connected(socket.socket(family, kind, protocol), address)
                except OSError as error:
                    failure = error
        except UnicodeError:
            raise LocationParseError(f"'{self.host}', label empty or too long") from None
        except OSError as error:
            failure = error
        raise NewConnectionError(self, str(failure)) from failure

    def _connected(self, sock: socket.socket, address: Any) -> socket.socket:
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            sock.settimeout(self._patience())
            sock.connect(address)
            sock.settimeout(self._patience())  # the rest of the time is for the TLS handshake
        except BaseException:
            sock.close()
            raise
        return sock

    def _tunnel(self) -> None:
        super()._tunnel()
        self.sock.settimeout(self._patience())

    def _patience(self) -> float:
        left = current_attempt.get().left()
        return left if self.timeout is None else min(self.timeout, left)

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        # From here on bytes leave. A proxy's CONNECT does not come this way, and must not.
        current_attempt.get().sent = True
        super().endheaders(*args, **kwargs)

    def send(self, data: Any) -> None:
        for start in range(0, len(data), _SLICE):
            self.sock.settimeout(current_attempt.get().left())
            super().send(data[start : start + _SLICE])
        self.sock.settimeout(self._patience())  # for the proxy's answer to CONNECT


class _TimedHTTPS(_Timed, HTTPSConnection):
    pass


class _Idle:
    """A pool's stack of idle connections, without the lock of queue.LifoQueue.

    A thread of the parent may hold that lock at a fork, and the child would wait for it for
    ever: urllib3 empties every pool when it is dropped and when the interpreter exits.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: deque[Any] = deque()

    def put(self, connection: Any, block: bool = True) -> None:  # noqa: FBT001, FBT002 - as queue has it
        if len(self._connections) >= self._most:
            raise queue.Full
        self._connections.append(connection)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        return len(self._connections)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Timed
    QueueCls = _Idle  # type: ignore[assignment]  # a pool asks no more of it than that

    def urlopen(self, *args: Any, **kwargs: Any) -> Any:
        current_attempt.get().sent = False
        return super().urlopen(*args, **kwargs)


class _HTTPSPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _TimedHTTPS


_POOLS: dict[str, Any] = {"http": _Pool, "https": _HTTPSPool}


class TimedAdapter(HTTPAdapter):
    """requests' adapter over the connections above; it never retries by itself."""

    def __init__(self) -> None:
        super().__init__(pool_maxsize=KEPT_CONNECTIONS, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections timed ones."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> PoolManager:
        """Make the pools of an HTTP proxy timed ones; SOCKS has connections of its own."""
        manager: PoolManager = super().proxy_manager_for(proxy, **kwargs)
        if type(manager) is ProxyManager:
            manager.pool_classes_by_scheme = _POOLS
        return manager
