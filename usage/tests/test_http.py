"""Tests that need a real server: how bodies arrive, and how connections end."""

import json
import runpy
import socket
import time
from typing import NamedTuple

import pytest
from django.conf import settings

from usage.tests.factories import usage_body
from usage.tests.live import PATIENCE_SECONDS, Service

pytestmark = pytest.mark.once
MIB = 1024**2


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


def exchange(
    service: Service,
    *parts: bytes,
    method: str = "POST",
    path: str = "/api/v1/usage/",
    key: str = "",
    media_type: str = "application/json",
) -> Answer:
    """Send a request part by part, its first one more headers; return the answer."""
    head = headers(key or service.books.key, method=method, path=path, media_type=media_type)
    with socket.create_connection(
        ("127.0.0.1", service.port), timeout=PATIENCE_SECONDS
    ) as connection:
        connection.sendall(head + parts[0])
        for part in parts[1:]:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(MIB), b""))
    top, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = top.decode().split("\r\n")
    named = dict(line.split(": ", 1) for line in lines)
    return Answer(int(status.split()[1]), named, body)


def headers(
    key: str,
    *,
    method: str = "POST",
    path: str = "/api/v1/usage/",
    media_type: str = "application/json",
) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {media_type}\r\n"
        f"Authorization: Bearer {key}\r\n"
    ).encode()


def sized(body: bytes) -> bytes:
    return f"Content-Length: {len(body)}\r\n\r\n".encode()


def record(service: Service) -> bytes:
    return json.dumps(usage_body(customer_id=service.customer())).encode()


def stored(service: Service) -> int:
    return len(service.books.table("usage_usagerecord"))


@pytest.mark.parametrize("path", ["/api/v1/usage/", "/api/v1/usage"])
def test_both_addresses_are_the_endpoint(live_service: Service, path: str) -> None:
    body = record(live_service)

    assert exchange(live_service, sized(body), body, path=path).status == 201


def test_a_body_in_chunks_is_read_like_any_other(live_service: Service) -> None:
    body = record(live_service)
    chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, body[:10], len(body) - 10, body[10:])

    assert exchange(live_service, b"Transfer-Encoding: chunked\r\n\r\n", chunks).status == 201


def test_a_request_sent_before_the_first_is_answered_is_answered_too(
    live_service: Service,
) -> None:
    first, second = record(live_service), record(live_service)

    answer = exchange(
        live_service, sized(first) + first + headers(live_service.books.key) + sized(second), second
    )

    assert answer.status == 201
    assert b"HTTP/1.1 201 Created" in answer.body


def test_a_caller_that_waits_for_it_is_told_to_send_the_body(live_service: Service) -> None:
    body = record(live_service)

    with socket.create_connection(
        ("127.0.0.1", live_service.port), timeout=PATIENCE_SECONDS
    ) as connection:
        head = headers(live_service.books.key)
        connection.sendall(head + b"Expect: 100-continue\r\n" + sized(body))
        told = connection.recv(MIB)
        connection.sendall(body)
        answer = connection.recv(MIB)

    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("size", [2 * MIB + 1, 16 * MIB, 16 * MIB + 1, 96 * MIB])
def test_a_caller_that_sends_too_much_still_sees_the_refusal(
    live_service: Service, size: int
) -> None:
    body = b" " * size

    answer = exchange(live_service, sized(body), body)

    assert (answer.status, answer.code) == (413, "body_too_large")
    assert answer.headers["Connection"] == "close"


def test_too_much_in_chunks_is_refused_the_same(live_service: Service) -> None:
    chunk = b"%x\r\n%b\r\n" % (MIB, b" " * MIB)

    answer = exchange(
        live_service, b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk, chunk, b"0\r\n\r\n"
    )

    assert (answer.status, answer.code) == (413, "body_too_large")
    assert answer.headers["Connection"] == "close"


def test_a_body_that_is_said_to_be_too_large_and_never_sent(live_service: Service) -> None:
    answer = exchange(live_service, b"Content-Length: %d\r\n\r\n" % (16 * MIB + 1))

    assert (answer.status, answer.code) == (413, "body_too_large")


def test_a_batch_of_too_many_records_ends_the_connection(live_service: Service) -> None:
    body = b"[" + b",".join([b"{}"] * 1001) + b"]"

    answer = exchange(live_service, sized(body), body)

    assert (answer.status, answer.code) == (413, "too_many_records")
    assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("end", [b"\r\n", b"Content-Length: 0\r\n\r\n"])
def test_an_empty_body_is_not_json(live_service: Service, end: bytes) -> None:
    answer = exchange(live_service, end)

    assert (answer.status, answer.code) == (400, "invalid_json")


def test_a_body_that_ends_early_records_nothing(live_service: Service) -> None:
    body = record(live_service)
    before = stored(live_service)

    answer = exchange(live_service, b"Content-Length: %d\r\n\r\n" % (len(body) + 1), body)

    assert (answer.status, answer.code) == (400, "invalid_json")
    assert stored(live_service) == before


def test_a_broken_chunk_records_nothing(live_service: Service) -> None:
    answer = exchange(live_service, b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n{}\r\n0\r\n\r\n")

    assert (answer.status, answer.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("a/b; x*=zz''y", 415),
        ("application/json; x*=zz''y", 201),
        ("application/json; charset*=utf-8''utf-8", 415),
        ("application/json; charset=hex", 415),
        ("application/json; charset=utf-8", 201),
    ],
)
@pytest.mark.parametrize("query", ["", "?%ff", "?" + "&" * 2000])
def test_a_content_type_that_django_cannot_parse_gets_an_ordinary_answer(
    live_service: Service, media_type: str, status: int, query: str
) -> None:
    body = record(live_service)

    answer = exchange(
        live_service, sized(body), body, path=f"/api/v1/usage/{query}", media_type=media_type
    )

    assert answer.status == status
    assert "X-Request-ID" in answer.headers


def test_a_proxy_may_send_both_headers_for_the_scheme(
    live_service: Service,
) -> None:
    both = b"X-Forwarded-Protocol: https\r\nX-Forwarded-Proto: https\r\n\r\n"

    assert exchange(live_service, both, method="GET", path="/livez").status == 200


def test_a_caller_cannot_move_the_service_to_another_address(live_service: Service) -> None:
    body = record(live_service)

    answer = exchange(live_service, b"SCRIPT_NAME: /elsewhere\r\n" + sized(body), body)

    assert answer.status == 201


def test_an_answer_to_head_has_no_body_and_logs_no_warning(
    live_service: Service,
) -> None:
    answer = exchange(live_service, b"X-Request-ID: head\r\n\r\n", method="HEAD", path="/livez")

    assert (answer.status, answer.body) == (200, b"")
    assert " head " not in live_service.log()


def test_without_a_key_the_body_is_not_looked_at(live_service: Service) -> None:
    body = b"\xff" * (3 * MIB)

    answer = exchange(live_service, sized(body), body, key="nonsense")

    assert (answer.status, answer.code) == (401, "not_authenticated")


def test_without_a_key_a_body_in_chunks_is_dropped_too(live_service: Service) -> None:
    chunks = [b"%x\r\n%b\r\n" % (MIB, b" " * MIB)] * 15

    answer = exchange(
        live_service, b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n", key="nonsense"
    )

    assert (answer.status, answer.code) == (401, "not_authenticated")


def test_idle_connections_are_kept_longer_than_any_client_keeps_them() -> None:
    configuration = runpy.run_path(str(settings.BASE_DIR / "gunicorn.conf.py"))

    assert configuration["keepalive"] >= 120  # Go and Java give up after 90 seconds, or earlier


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_a_connection_idle_for_92_seconds_is_answered(live_service: Service) -> None:
    caller = live_service.caller()
    caller.ready()
    connection = caller.connection.sock

    time.sleep(92)

    assert caller.ready().status == 200
    assert caller.connection.sock is connection


def test_a_key_in_a_malformed_request_is_not_in_the_log(live_service: Service) -> None:
    key = live_service.books.key
    with socket.create_connection(
        ("127.0.0.1", live_service.port), timeout=PATIENCE_SECONDS
    ) as connection:
        request = f"POST /api/v1/usage/ HTTP/1.1\r\nAuthorization Bearer {key}\r\n\r\n"
        connection.sendall(request.encode())
        assert b" 400 " in connection.recv(1000)

    log = live_service.log()
    assert "Invalid HTTP Header: 'Authorization Bearer ub_" in log
    assert key not in log
