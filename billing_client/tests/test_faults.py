"""Every way a request can fail, with the truth about it: was it sent, is it stored."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from billing_client import (
    AuthenticationError,
    BillingClient,
    BillingError,
    ConfigurationError,
    ConflictError,
    CustomerNotFoundError,
    RateLimitedError,
    UnavailableError,
)
from billing_client.fake.service import MemoryService
from billing_client.tests.conftest import Sleeps
from billing_client.tests.faulty import (
    KEY,
    Behaviour,
    Exchange,
    FaultyServer,
    after_commit,
    chunked,
    cut,
    cut_before_reading,
    endless,
    for_another,
    garbage_chunks,
    honest,
    not_http,
    raw,
    refuse,
    reply,
    stall,
    trickle_body,
    trickle_head,
    truncate,
)

FACT: dict[str, Any] = {
    "customer_id": 123,
    "service": "Database Hosting",
    "units_consumed": 58,
    "price_per_unit": "0.05",
    "request_id": "cdn:17",
}
pytestmark = pytest.mark.live  # waits for servers
HTML = reply(200, b"<html>Please sign in</html>", Content_Type="text/html")


def failed(billing: BillingClient) -> BillingError:
    with pytest.raises(BillingError) as caught:
        billing.record_usage(**FACT)
    return caught.value


FAULTS = {
    "cut before reading": cut_before_reading,
    "cut after reading": cut,
    "cut after commit": after_commit(cut),
    "stall": stall,
    "stall after commit": after_commit(stall),
    "trickle body": trickle_body,
    "trickle head": trickle_head,
    "truncate": truncate,
    "503": reply(503),
    "503 after commit": after_commit(reply(503)),
    "500": reply(500, b"<h1>Server Error (500)</h1>"),
    "502": reply(502),
    "504": after_commit(reply(504)),
    "520": reply(520),
    "600": reply(600),
    "408": reply(408),
    "html": HTML,
    "202": reply(202, b"{}"),
    "103": reply(103),
    "early hints": raw(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 201 Created\r\n\r\n{}"),
    "another's answer": for_another,
    "a batch's answer": reply(
        207, {"results": [], **MemoryService().answer(json.dumps(FACT).encode()).content}
    ),
    "array": reply(201, []),
    "invalid json": reply(201, b'{"request_id": "cdn:17"'),
    "not utf-8": reply(201, b"\xff\xfe\x00"),
    "deep": reply(200, b"[" * 100_000),
    "huge number": reply(200, b"9" * 10_000),
    "endless": endless,
    "garbage chunks": garbage_chunks,
    "garbage length": reply(201, b"{}", Content_Length="x"),
    "garbage encoding": reply(201, b"{}", Content_Encoding="gzip"),
    "two lengths": reply(201, b"{}", Content_Length="2, 3"),
    "not http": not_http,
}


@pytest.fixture(autouse=True)
def _small_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing_client.transport.LARGEST_ANSWER", 200_000)


@pytest.mark.no_cover
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_one_fault_costs_the_caller_nothing(
    stubborn: BillingClient, server: FaultyServer, fault: Behaviour
) -> None:
    server.script.append(fault)
    assert stubborn.record_usage(**FACT).status in {"created", "replayed"}
    assert list(server.service.stored) == ["cdn:17"]
    assert not server.script
    # The whole request, its head included, is the same at every attempt.
    assert len({(request.head, request.body) for request in server.seen}) == 1


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_faults_to_the_end_are_ambiguous(
    hasty: BillingClient, server: FaultyServer, fault: Behaviour
) -> None:
    server.script.extend([fault] * 2)
    error = failed(hasty)
    assert type(error) is UnavailableError
    assert (error.attempts, error.ambiguous, error.request_ids) == (2, True, ("cdn:17",))


@pytest.mark.parametrize("fault", [after_commit(cut), after_commit(stall), truncate, for_another])
def test_a_fact_whose_answer_was_lost_is_a_replay(
    stubborn: BillingClient, server: FaultyServer, fault: Behaviour
) -> None:
    server.script.append(fault)
    assert stubborn.record_usage(**FACT).status == "replayed"


def test_an_answer_in_chunks_is_as_good(billing: BillingClient, server: FaultyServer) -> None:
    server.script.append(chunked)
    assert billing.record_usage(**FACT).status == "created"


def test_an_answer_without_end_is_not_read_to_its_end(server: FaultyServer) -> None:
    server.script.append(endless)
    with BillingClient(server.url, KEY, read_timeout=60, attempts=1) as billing:
        error = failed(billing)
    assert "too long to be the service's" in str(error)
    assert error.ambiguous is True


# What surely never arrived


@pytest.fixture
def unreachable() -> Iterator[BillingClient]:
    """A client of a port that refuses connections."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with BillingClient(f"http://127.0.0.1:{unused.getsockname()[1]}", KEY) as billing:
            yield billing


def test_a_refused_connection_is_not_ambiguous(unreachable: BillingClient, sleeps: Sleeps) -> None:
    error = failed(unreachable)
    assert type(error) is UnavailableError
    assert (error.attempts, error.ambiguous, error.status_code) == (5, False, None)
    assert "Connection refused" in str(error)
    assert len(sleeps) == 4


def test_an_unknown_host_is_not_ambiguous(
    billing: BillingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = failed(billing)
    assert (error.attempts, error.ambiguous) == (5, False)
    assert "Name or service not known" in str(error)


def test_a_connection_that_takes_too_long_is_not_ambiguous(
    billing: BillingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object, **__: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket.socket, "connect", slow)
    assert failed(billing).ambiguous is False


def test_a_proxy_that_is_away_is_not_ambiguous(
    unreachable: BillingClient, billing: BillingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = unreachable._transport.endpoint.partition("/api")[0]
    monkeypatch.setenv("http_proxy", closed)
    error = failed(billing)
    assert (error.attempts, error.ambiguous) == (5, False)
    assert "Connection refused, at the proxy; resend" in str(error)


def test_a_proxy_is_used_and_what_it_loses_is_ambiguous(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.script.append(cut)
    with BillingClient("http://billing.localhost:81", KEY, attempts=1) as billing:
        assert failed(billing).ambiguous is True
        assert billing.record_usage(**FACT).status == "created"
    assert server.seen[0].path == "http://billing.localhost:81/api/v1/usage/"


def test_a_tunnel_that_is_refused_is_not_ambiguous(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", server.url)
    server.script.append(reply(407))
    with BillingClient("https://billing.example.com", KEY, attempts=1) as billing:
        error = failed(billing)
    assert (type(error), error.ambiguous) == (UnavailableError, False)
    assert KEY.encode() not in server.seen[0].head


# The truth after several attempts


@pytest.mark.parametrize("last", [reply(503), reply(429), reply(408), reply(425), HTML])
def test_a_lost_answer_stays_ambiguous_whatever_comes_later(
    twice: BillingClient, server: FaultyServer, last: Behaviour
) -> None:
    server.script.extend([cut, last])
    assert failed(twice).ambiguous is True


def test_the_outcome_stays_unknown_when_the_service_has_gone(server: FaultyServer) -> None:
    with BillingClient(server.url, KEY, attempts=2) as billing:
        server.script.append(cut_and_leave)
        error = failed(billing)
    assert "Connection refused" in str(error)
    assert (error.attempts, error.ambiguous) == (2, True)


def cut_and_leave(exchange: Any) -> None:
    exchange.server.leave()


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (refuse(401, "not_authenticated"), AuthenticationError),
        (refuse(404, "unknown_customer"), CustomerNotFoundError),
        (refuse(400, "validation_error"), BillingError),
        (reply(302, Location="/"), ConfigurationError),
        (reply(404), ConfigurationError),
    ],
)
def test_a_refusal_does_not_settle_an_attempt_that_may_still_arrive(
    twice: BillingClient, server: FaultyServer, last: Behaviour, kind: type[BillingError]
) -> None:
    server.script.extend([cut, last])
    error = failed(twice)
    assert isinstance(error, kind)
    assert (error.attempts, error.ambiguous) == (2, True)


def test_a_conflict_settles_it(twice: BillingClient, server: FaultyServer) -> None:
    server.script.extend([cut, refuse(409, "request_id_conflict")])
    error = failed(twice)
    assert isinstance(error, ConflictError)
    assert error.ambiguous is False


@pytest.mark.parametrize("status", [425, 429])
def test_what_was_not_looked_at_is_not_ambiguous(
    twice: BillingClient, server: FaultyServer, status: int
) -> None:
    server.script.extend([reply(status)] * 2)
    assert failed(twice).ambiguous is False


def test_a_kept_connection_that_the_service_dropped(
    billing: BillingClient, server: FaultyServer
) -> None:
    billing.record_usage(**FACT)
    server.drop_connections()
    assert billing.record_usage(**FACT).status == "replayed"


# Waiting


def test_retry_after_is_obeyed(
    billing: BillingClient, server: FaultyServer, sleeps: Sleeps
) -> None:
    server.script.append(reply(503, Retry_After="7"))
    assert billing.record_usage(**FACT).status == "created"
    (slept,) = sleeps
    assert 7 <= slept <= 7.5


def test_retry_after_as_a_date_is_obeyed(
    billing: BillingClient, server: FaultyServer, sleeps: Sleeps
) -> None:
    dates = {
        "Retry_After": "Sun, 22 Nov 2026 10:00:09 GMT",
        "Date": "Sun, 22 Nov 2026 10:00:00 GMT",
    }
    server.script.append(reply(429, **dates))
    billing.record_usage(**FACT)
    assert 9 <= sleeps[0] <= 9.5


def test_retry_after_beyond_the_deadline_raises_at_once(
    billing: BillingClient, server: FaultyServer, sleeps: Sleeps
) -> None:
    server.script.append(refuse(503, "service_unavailable", Retry_After="31"))
    error = failed(billing)
    assert (error.attempts, error.retry_after, error.code) == (1, 31, "service_unavailable")
    assert (sleeps, error.ambiguous) == ([], True)


def test_retry_after_that_is_rubbish_is_ignored(
    billing: BillingClient, server: FaultyServer
) -> None:
    server.script.append(reply(429, Retry_After="tomorrow"))
    assert billing.record_usage(**FACT).status == "created"


def test_the_wait_of_a_rate_limit_that_ran_out(
    billing: BillingClient, server: FaultyServer, sleeps: Sleeps
) -> None:
    server.script.extend([reply(429, Retry_After="12")] * 5)
    error = failed(billing)
    assert isinstance(error, RateLimitedError)
    assert (error.retry_after, error.attempts) == (12, 3)
    assert sum(sleeps) < 30


@pytest.mark.parametrize("seconds", [5, 20, 23])
def test_a_failover_is_outlasted(
    billing: BillingClient, server: FaultyServer, sleeps: Sleeps, seconds: float
) -> None:
    """The service says 503 with Retry-After until the standby has taken over."""

    def away(exchange: Exchange) -> None:
        if sum(sleeps) >= seconds:
            honest(exchange)
        else:
            server.script.append(away)
            refuse(503, "service_unavailable", Retry_After="1")(exchange)

    server.script.append(away)
    assert billing.record_usage(**FACT).status == "created"


def test_attempts_are_counted(server: FaultyServer) -> None:
    server.script.extend([reply(500)] * 9)
    with BillingClient(server.url, KEY, attempts=3) as billing:
        assert failed(billing).attempts == 3
    assert len(server.seen) == 3


def test_an_unexpected_success_after_faults(billing: BillingClient, server: FaultyServer) -> None:
    server.script.extend([cut, reply(500), HTML, cut, honest])
    assert billing.record_usage(**FACT).status == "created"
    assert len(server.seen) == 5
