"""TLS that cannot be trusted is a matter of set-up; TLS that breaks off is a fault like others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from billing_client import BillingClient, BillingError, ConfigurationError, UnavailableError
from billing_client.tests.faulty import (
    CERTIFICATE,
    KEY,
    FaultyServer,
    after_commit,
    cut,
    cut_in_handshake,
    garbage_tls,
    trickle_body,
)

FACT: dict[str, Any] = {
    "customer_id": 123,
    "service": "Database Hosting",
    "units_consumed": 58,
    "price_per_unit": "0.05",
    "request_id": "cdn:17",
}


@pytest.fixture
def secure() -> Iterator[FaultyServer]:
    with FaultyServer(tls=True) as server:
        yield server


@pytest.fixture
def trusting(secure: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[BillingClient]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    with BillingClient(secure.url, KEY, read_timeout=5) as billing:
        yield billing


def failed(url: str) -> BillingError:
    with BillingClient(url, KEY) as billing, pytest.raises(BillingError) as caught:
        billing.record_usage(**FACT)
    return caught.value


def test_an_untrusted_certificate_is_refused(secure: FaultyServer) -> None:
    error = failed(secure.url)
    assert isinstance(error, ConfigurationError)
    assert "certificate verify failed" in str(error)
    assert (error.attempts, error.ambiguous, secure.seen) == (1, False, [])


def test_a_server_without_tls_is_a_wrong_address(server: FaultyServer) -> None:
    error = failed(server.url.replace("http:", "https:"))
    assert isinstance(error, ConfigurationError)
    assert (error.attempts, error.ambiguous) == (1, False)


def test_a_ca_bundle_that_does_not_exist(
    secure: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    error = failed(secure.url)
    assert isinstance(error, ConfigurationError)
    assert "/nowhere.pem" in str(error)
    assert (error.attempts, error.ambiguous) == (1, False)


def test_the_environments_ca_bundle_is_used(trusting: BillingClient) -> None:
    assert trusting.record_usage(**FACT).status == "created"


def test_faults_after_the_handshake_are_like_others(
    trusting: BillingClient, secure: FaultyServer
) -> None:
    secure.script.append(after_commit(cut))
    assert trusting.record_usage(**FACT).status == "replayed"


def test_tls_that_goes_wrong_after_the_request_was_sent_is_a_fault_like_others(
    trusting: BillingClient, secure: FaultyServer
) -> None:
    secure.script.append(after_commit(garbage_tls))
    assert trusting.record_usage(**FACT).status == "replayed"


@pytest.mark.usefixtures("trusting")
def test_a_trickle_is_cut_short_here_too(secure: FaultyServer) -> None:
    secure.script.append(trickle_body)
    billing = BillingClient(secure.url, KEY, read_timeout=0.3, attempts=1)
    with billing, pytest.raises(UnavailableError, match="Timeout") as caught:
        billing.record_usage(**FACT)
    assert caught.value.ambiguous is True


def test_a_handshake_that_breaks_off_is_tried_again(server: FaultyServer) -> None:
    server.script.extend([cut_in_handshake] * 5)
    error = failed(server.url.replace("http:", "https:"))
    assert isinstance(error, UnavailableError)
    assert (error.attempts, error.ambiguous) == (5, False)
