"""The key goes to the service and nowhere else."""

from __future__ import annotations

import copy
import logging
import pickle
import re
import traceback
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from billing_client import BillingClient, BillingError, ConfigurationError, Usage
from billing_client.fake.service import problem
from billing_client.tests.faulty import (
    KEY,
    Exchange,
    FaultyServer,
    cut,
    raw,
    refuse,
    reply,
    stall,
)

FACT: dict[str, Any] = {
    "customer_id": 123,
    "service": "Database Hosting",
    "units_consumed": 58,
    "price_per_unit": "0.05",
}


def echo(status: int) -> Callable[[Exchange], None]:
    """A debugging proxy that shows the caller the request it refused."""

    def behaviour(exchange: Exchange) -> None:
        head = exchange.request.head.decode()
        errors = [{"field": head, "code": head, "detail": head}]
        body = problem(status, "validation_error", errors=errors, request_id=head)
        reply(status, {**body, "detail": head, "title": head, "code": head})(exchange)

    return behaviour


FAULTS: dict[str, Callable[[Exchange], None]] = {
    "echo 400": echo(400),
    "echo 401": echo(401),
    "echo 404": echo(404),
    "echo 500": echo(500),
    "echo 200": echo(200),
    "cut": cut,
    "stall": stall,
    "redirect": reply(302, Location=f"https://example.com/?key={KEY}"),
    "refused": refuse(401, "not_authenticated"),
    "a status line": raw(f"HTTP/1.1 {KEY} Bearer\r\n\r\n".encode()),
    "a chunk": raw(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n".encode()),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_no_error_log_or_pickle_has_the_key(
    hasty: BillingClient,
    server: FaultyServer,
    caplog: pytest.LogCaptureFixture,
    fault: Callable[[Exchange], None],
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script.extend([fault] * 2)
    with pytest.raises(BillingError) as caught:
        hasty.record_usage(**FACT)
    error = caught.value
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown = [repr(error), str(error), repr(vars(error)), "".join(trace.format()), caplog.text]
    assert not any(KEY in text for text in shown)
    assert KEY.encode() not in pickle.dumps(error)
    assert any(KEY in str(request.header("Authorization")) for request in server.seen)


def test_the_standard_librarys_tracing_does_not_print_the_key(
    billing: BillingClient,
    server: FaultyServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(HTTPConnection, "debuglevel", 1)
    billing.record_usage(**FACT)
    assert KEY not in capsys.readouterr().out


def test_no_error_drags_along_the_request_that_holds_the_key(
    hasty: BillingClient, server: FaultyServer
) -> None:
    server.script.extend([cut] * 2)
    with pytest.raises(BillingError) as caught:
        hasty.record_usage(**FACT)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ is True
    assert not isinstance(caught.value.__context__, OSError)


def test_a_key_too_short_to_be_one_is_not_taken_out_of_the_words_of_an_answer(
    server: FaultyServer,
) -> None:
    with BillingClient(server.url, "cdn") as billing:
        assert billing.record_usage(**FACT, request_id="cdn:17").status == "created"


def test_no_repr_has_the_key(billing: BillingClient, server: FaultyServer) -> None:
    transport = billing._transport
    assert repr(billing) == f"<BillingClient for {server.url}/api/v1/usage/>"
    shown = [
        repr(vars(billing)),
        repr(vars(transport)),
        repr(transport.prepare(b"{}", trace_id="t")),
    ]
    assert not any(KEY in text for text in shown)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_client_cannot_be_copied(
    billing: BillingClient, copied: Callable[[object], object]
) -> None:
    with pytest.raises(TypeError, match="holds the API key"):
        copied(billing)


def test_the_key_object_cannot_be_pickled_either(billing: BillingClient) -> None:
    with pytest.raises(TypeError, match="An API key is not pickled"):
        pickle.dumps(billing._transport)


def test_netrc_never_replaces_the_key(
    billing: BillingClient, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    billing.record_usage(**FACT)
    assert server.seen[0].header("Authorization") == f"Bearer {KEY}"


def test_cookies_are_not_kept(billing: BillingClient, server: FaultyServer) -> None:
    server.script.append(reply(429, Set_Cookie="session=1; Path=/"))
    for _ in range(2):
        billing.record_usage(**FACT)
    assert [request.header("Cookie") for request in server.seen] == [None] * 3


# The log


def test_a_good_day_is_silent(
    billing: BillingClient, usage: Callable[..., Usage], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    billing.record_usage(**FACT)
    billing.record_many([usage("a"), usage("b", customer_id=404)])
    assert caplog.records == []


def test_a_retry_is_a_warning_with_id_and_reason(
    billing: BillingClient, server: FaultyServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.script.append(refuse(503, "service_unavailable"))
    billing.record_usage(**FACT, request_id="cdn:17")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("billing_client.calls", logging.WARNING)
    trace_id = server.seen[0].header("X-Request-ID")
    for part in (
        "attempt 1 for cdn:17 failed",
        "answered 503 (Service unavailable)",
        str(trace_id),
    ):
        assert part in record.getMessage()


def test_a_retry_of_a_batch_names_the_first_id_and_counts_the_rest(
    billing: BillingClient,
    server: FaultyServer,
    usage: Callable[..., Usage],
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.script.append(cut)
    billing.record_many([usage("a"), usage("b"), usage("c")])
    assert "attempt 1 for a and 2 more failed" in caplog.text


FORGED = "no\nERROR forged\r\n\x1b[31m\u202e\x08" + "x" * 10_000
FAULT = {"field": FORGED, "code": FORGED, "detail": FORGED}


@pytest.mark.parametrize(
    "said",
    [
        refuse(503, "service_unavailable", more={"detail": FORGED}),
        refuse(503, "service_unavailable", more={"errors": [FAULT] * 100}),
        raw(FORGED.encode()),
    ],
    ids=["detail", "errors", "no HTTP"],
)
def test_what_others_say_stays_on_one_short_line(
    twice: BillingClient, server: FaultyServer, caplog: pytest.LogCaptureFixture, said: Any
) -> None:
    """Or whoever answers could forge lines of the caller's log, flood it, or speak to terminals."""
    server.script.extend([said] * 2)
    with pytest.raises(BillingError) as caught:
        twice.record_usage(**FACT)
    for message in (caplog.records[0].getMessage(), str(caught.value)):
        assert message.isprintable()
        assert len(message) < 1300


def test_where_a_redirect_leads_is_told_in_short(
    billing: BillingClient, server: FaultyServer
) -> None:
    server.script.append(reply(302, Location="http://" + "x" * 10_000))
    with pytest.raises(BillingError, match="redirect to xxx") as caught:
        billing.record_usage(**FACT)
    assert len(str(caught.value)) < 1000


def test_an_error_carries_the_id_the_service_logged_it_under(
    twice: BillingClient, server: FaultyServer
) -> None:
    server.script.extend([cut] * 2)
    with pytest.raises(BillingError) as caught:
        twice.record_usage(**FACT)
    assert caught.value.trace_id == server.seen[1].header("X-Request-ID")


MALFORMED_PROXIES = [
    "http://alice:s3[cr3t@127.0.0.1:9",
    "http://alice:s3]cr3t@127.0.0.1:9",
    "http://alice:s3/cr3t@127.0.0.1:9",
    "http://alice:s3cr3t@127.0.0.1:99999",
    "http://alice:s3cr3t@127.0.0.1:port",
    "http://alice:s3cr3t@:3128",
    "http://alice:s3cr3t@",
    "http://alice:s3\u2028cr3t@127.0.0.1:9",
    "alice:s3cr3t@127.0.0.1:9",
]


@pytest.mark.parametrize("address", MALFORMED_PROXIES)
def test_a_malformed_proxy_is_never_quoted(
    address: str,
    server: FaultyServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its password may be anywhere in it."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("http_proxy", address)
    with (
        BillingClient("http://billing.example.com", KEY) as billing,
        pytest.raises(ConfigurationError, match="The proxy's address is malformed") as caught,
    ):
        billing.record_usage(**FACT)
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert not re.search("alice|s3|cr3t", shown)


@pytest.mark.parametrize("label", ["a" * 70, "a..b"])
def test_a_proxy_whose_host_cannot_be_resolved_is_not_quoted_either(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:password@{label}:9")
    with (
        BillingClient("http://billing.example.com", KEY) as billing,
        pytest.raises(ConfigurationError) as caught,
    ):
        billing.record_usage(**FACT)
    assert label not in str(caught.value)
