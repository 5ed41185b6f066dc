"""Corners of the connection that no server can produce."""

from __future__ import annotations

import queue

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3 import PoolManager

from billing_client import BillingClient, BillingError, ConfigurationError
from billing_client.connections import Attempt, TimedAdapter, _Idle
from billing_client.tests.faulty import KEY
from billing_client.transport import _root


def failed(url: str) -> BillingError:
    with BillingClient(url, KEY) as billing, pytest.raises(BillingError) as caught:
        billing.record_usage(customer_id=1, service="x", units_consumed=1, price_per_unit=1)
    return caught.value


@pytest.mark.parametrize(
    ("host", "attempts"), [("*.example.com", 0), ("a..example.com", 1), ("x" * 64, 1)]
)
def test_a_host_that_cannot_be_one_is_a_wrong_address(host: str, attempts: int) -> None:
    error = failed(f"https://{host}")
    assert isinstance(error, ConfigurationError)
    assert (error.attempts, error.ambiguous, len(error.request_ids)) == (attempts, False, 1)


def test_idle_connections_are_kept_up_to_a_number() -> None:
    idle = _Idle(1)
    idle.put("first")
    with pytest.raises(queue.Full):
        idle.put("second")
    assert (idle.qsize(), idle.get()) == (1, "first")
    with pytest.raises(queue.Empty):
        idle.get()


@pytest.mark.parametrize("proxy", ["http://", "gopher://127.0.0.1:70"])
def test_a_proxy_that_cannot_be_one_is_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    error = failed("https://billing.example.com")
    assert isinstance(error, ConfigurationError)
    assert (error.attempts, error.ambiguous) == (1, False)


def test_a_way_that_is_not_known_here_may_have_sent_it() -> None:
    """Through a SOCKS proxy only what came back can tell."""
    assert Attempt(1).sent is True


def test_connections_of_another_kind_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    socks = PoolManager()
    known = socks.pool_classes_by_scheme
    monkeypatch.setattr(HTTPAdapter, "proxy_manager_for", lambda *_: socks)
    assert TimedAdapter().proxy_manager_for("socks5://127.0.0.1:1080") is socks
    assert socks.pool_classes_by_scheme is known


def test_the_innermost_cause_is_named_even_in_a_circle() -> None:
    inner = OSError("inner")
    assert _root(requests.ConnectionError(RuntimeError(inner))) is inner
    inner.args = (inner,)
    assert _root(inner) is inner
