"""The service in memory on a real port, failing as networks, proxies and failovers do.

Every new call meets the next fault of a shuffled list; when the list is used up, every second new
call meets one of those that take no time. A call that repeats ids is answered honestly, unless
the outage of one of them lasts.
"""

from __future__ import annotations

import json
import random
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from billing_client.config import ENDPOINT
from billing_client.errors import some
from billing_client.fake.grading import FAULTS, Call, Fault, Grader, Times, records_of
from billing_client.fake.service import MemoryService, Reply, refused

# Where a client says which refused records it has dealt with in another way, as an array of ids.
READ_ELSEWHERE = "/fake/refused"
_MOST_BYTES = 2 * 1024 * 1024
_QUICK: tuple[Fault, ...] = ("lost", "reset", "bad gateway")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, with an RST


class FakeServer(ThreadingHTTPServer):
    """Serves on 127.0.0.1 from the start to the end of the with block.

    port   0 takes a free one
    facts  how many facts the client is to report
    seed   makes the order of the faults
    say    gets one line for each call
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        *,
        port: int = 0,
        facts: int = 16,
        seed: int = 0,
        times: Times | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.times = times or Times()
        self.service = MemoryService()
        self.grader = Grader(self.service, facts=facts, times=self.times)
        self._say = say
        self._dice = random.Random(seed)  # noqa: S311 - an order of faults keeps no secret
        self._faults = self._dice.sample(list(FAULTS), len(FAULTS))
        self._new_calls = 0
        self._outages: dict[str, float] = {}
        self._connections = 0
        self._last_call = time.monotonic()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        super().__init__(("127.0.0.1", port), _Handler)
        self.port = self.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def wait(self) -> None:
        """Return when all is settled and quiet, or when the client has long made no call."""
        while True:
            with self._lock:
                seconds = self.times.start
                if self.grader.calls:
                    is_settled = self.grader.is_settled()
                    seconds = self.times.quiet if is_settled else self.times.idle
                if time.monotonic() - self._last_call > seconds:
                    return
            time.sleep(0.05)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; one that is to be reset sends no FIN first."""
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET)) == _RESET:
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hung up."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    # For the handler

    def connected(self) -> int:
        """A number for a new connection."""
        with self._lock:
            self._connections += 1
            return self._connections

    def begin(self, connection: int, body: bytes, *, is_honest: bool) -> Call:
        """Note a call, and choose its fault unless it is answered honestly."""
        with self._lock:
            now = self._last_call = time.monotonic()
            call = Call(len(self.grader.calls) + 1, connection, now, records_of(body))
            call.fault = None if is_honest else self._fault(call)
            self.grader.calls.append(call)
            return call

    def read_elsewhere(self, body: bytes) -> Reply:
        """Note the ids of refused records that the client has dealt with in another way."""
        try:
            ids = json.loads(body)
        except (ValueError, RecursionError):
            ids = None
        if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
            return refused(400, "invalid_json", "Send the ids as a JSON array of strings.")
        self.grader.read_elsewhere |= set(ids)
        return Reply(200, {}, {})

    def answer(self, call: Call, body: bytes, key: str | None) -> Reply | None:
        """The reply to send; None where the fault is that there is none."""
        if call.fault == "outage":
            text = "The database is away: send the same request again, it is recorded once."
            retry = {"Retry-After": str(self.times.retry_after)}
            return refused(503, "service_unavailable", text, retry)
        last = set(list(call.records)[-1:]) if call.fault == "refused" else set()
        self.service.refused_ids |= last
        reply = self.service.answer(body, idempotency_key=key)
        self.service.refused_ids -= last
        if call.fault == "bad gateway":
            return Reply(502, "<html><h1>502 Bad Gateway</h1></html>", {})
        return reply if call.fault in (None, "refused") else None

    def end(self, call: Call, reply: Reply | None, *, delivered: bool) -> None:
        """Note what came of a call."""
        with self._lock:
            call.ended = self._last_call = time.monotonic()
            if reply is not None and delivered:
                call.status = reply.status
                call.results = dict.fromkeys(call.records, reply.status)
                if reply.status == 207:
                    results = reply.content["results"]
                    call.results = {
                        one["request_id"]: one["status"] for one in results if one["request_id"]
                    }
                call.detail = reply.content.get("detail", "") if reply.status != 502 else ""
        names = some(list(call.records), 3) or "no record"
        fault = f" ({call.fault}: {FAULTS[call.fault]})" if call.fault else ""
        said = f"{names} -> {call.status or 'no answer'}{fault}"
        self._say(f"call {call.number} on connection {call.connection}: {said}")

    def wait_for_hang_up(self, call: Call, sock: socket.socket) -> None:
        """Say nothing until the client gives up."""
        ends = time.monotonic() + self.times.silence
        while time.monotonic() < ends and not self._stopping.is_set():
            if select.select([sock], [], [], 0.05)[0]:
                return
        call.hung_up = self._stopping.is_set()

    def _fault(self, call: Call) -> Fault | None:
        under_way = [self._outages[name] for name in call.records if name in self._outages]
        if under_way:
            return "outage" if call.began < max(under_way) else None
        seen = {name for earlier in self.grader.calls for name in earlier.records}
        if not call.records or any(name in seen for name in call.records):
            return None
        self._new_calls += 1
        fits = [fault for fault in self._faults if len(call.records) > 1 or fault != "refused"]
        if fits:
            self._faults.remove(fits[0])
            if fits[0] == "outage":
                ends = call.began + self.times.outage
                self._outages |= dict.fromkeys(call.records, ends)
            return fits[0]
        return self._dice.choice(_QUICK) if self._new_calls % 2 else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def setup(self) -> None:
        super().setup()
        self.number = self.server.connected()

    def __getattr__(self, name: str) -> Any:
        """Find the methods but POST, which the base class looks up by their names."""
        if name.startswith("do_"):
            return self._refuse_method
        raise AttributeError(name)

    def _refuse_method(self) -> None:
        """Count it as no call: it may only ask whether the service is up."""
        self._body()
        text = "Usage is reported by POST."
        refusal = refused(405, "method_not_allowed", text, {"Allow": "POST"})
        self._send(self._not_let_in() or refusal)

    def do_POST(self) -> None:
        fake, body = self.server, self._body()
        if self.path == READ_ELSEWHERE:
            self._send(fake.read_elsewhere(body))
            return
        refusal = self._not_let_in() or self._unreadable(body)
        call = fake.begin(self.number, body, is_honest=refusal is not None)
        keys = self.headers.get_all("Idempotency-Key")
        reply = refusal or fake.answer(call, body, ",".join(keys).strip() if keys else None)
        delivered = False
        try:
            if reply is not None:
                self._send(reply)
                delivered = True
            else:
                self.close_connection = True
                if call.fault == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                elif call.fault == "silence":
                    fake.wait_for_hang_up(call, self.connection)
        finally:
            fake.end(call, reply, delivered=delivered)

    def log_message(self, *_: Any) -> None:
        """The calls are told by FakeServer."""

    def _not_let_in(self) -> Reply | None:
        """The answer to a request at another address, or without a key."""
        if unquote(urlsplit(self.path).path) not in (ENDPOINT, ENDPOINT.rstrip("/")):
            return refused(404, "not_found", f"Usage is reported by POST {ENDPOINT}.")
        scheme, _, key = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            text = "Send 'Authorization: Bearer <key>'."
            return refused(401, "not_authenticated", text, {"WWW-Authenticate": "Bearer"})
        return None

    def _unreadable(self, body: bytes) -> Reply | None:
        """The answer to a body that is not even looked at."""
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        charset = str(self.headers.get_param("charset", "utf-8")).lower()
        is_json = self.headers.get_content_type() == "application/json"
        if not is_json or charset not in {"utf-8", "utf8"} or encoding != "identity":
            text = "Send the body as Content-Type: application/json, in UTF-8 and not compressed."
            return refused(415, "unsupported_media_type", text)
        if len(body) > _MOST_BYTES:
            text = f"Send at most {_MOST_BYTES} bytes at once."
            return refused(413, "body_too_large", text, {"Connection": "close"})
        return None

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, reply: Reply) -> None:
        is_text = isinstance(reply.content, str)
        body = reply.content.encode() if is_text else json.dumps(reply.content).encode()
        kind = "application/problem+json" if reply.status >= 400 else "application/json"
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/html" if is_text else kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
