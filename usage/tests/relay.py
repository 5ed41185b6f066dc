"""A relay in front of the running service that fails in the ways networks and proxies do."""

from __future__ import annotations

import socket

from billing_client.tests.faulty import Exchange, FaultyServer, Seen, honest, read_request


class FaultyRelay(FaultyServer):
    """Takes the behaviour for each request from `script`; passes it on when that is empty.

    `answered` holds the service's answers, whether or not the client got them.
    """

    def __init__(self, port: int) -> None:
        super().__init__()
        self.answered: list[bytes] = []
        self.held_back: list[Seen] = []
        self._service = "127.0.0.1", port

    def ask_service(self, request: Seen) -> bytes:
        """Pass a request on, and return the whole answer as it came."""
        lines = request.head.split(b"\r\n")
        kept = [line for line in lines if not line.lower().startswith(b"connection:")]
        head = b"\r\n".join([*kept, b"Connection: close"])
        with socket.create_connection(self._service) as service:
            service.sendall(head + b"\r\n\r\n" + request.body)
            with service.makefile("rb") as stream:
                answer = stream.read()
        self.answered.append(answer)
        return answer.replace(b"Connection: close", b"Connection: keep-alive", 1)

    def deliver_late(self) -> list[bytes]:
        """Pass on the held back requests, and return the answers, which no client waits for."""
        return [self.ask_service(request) for request in self.held_back]

    def _exchange(self, number: int, sock: socket.socket) -> bool:
        request = read_request(number, sock)
        if request is None:
            return False
        with self._lock:
            self.seen.append(request)
            behaviour = self.script.popleft() if self.script else honest
        exchange = Relayed(self, sock, request)
        behaviour(exchange)
        return exchange.keep


class Relayed(Exchange):
    """One request; its honest answer is the service's own, byte for byte."""

    server: FaultyRelay

    def honest(self) -> bytes:
        return self.server.ask_service(self.request)


def hold_back(exchange: Exchange) -> None:
    """Cut the connection; the request arrives later, see `deliver_late`."""
    assert isinstance(exchange, Relayed)
    exchange.server.held_back.append(exchange.request)


def answer_of_another_caller(exchange: Exchange) -> None:
    """Let the service record the usage, and send the answer of the very first caller."""
    assert isinstance(exchange, Relayed)
    exchange.honest()
    exchange.sock.sendall(exchange.server.answered[0])
