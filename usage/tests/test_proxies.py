"""Whose address counts behind a proxy."""

import runpy
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from django.conf import settings as project_settings
from django.test import RequestFactory
from gunicorn.config import Config  # type: ignore[import-untyped]  # no stubs
from pytest_django.fixtures import Settings

from billing_project.proxies import client_address


@pytest.mark.parametrize(
    ("connection", "forwarded", "client"),
    [
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "made up, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("::ffff:127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("::ffff:198.51.100.7", "203.0.113.9", "::ffff:198.51.100.7"),
        ("", "203.0.113.9", "203.0.113.9"),
        ("198.51.100.7", "203.0.113.9", "198.51.100.7"),
        ("127.0.0.1", "203.0.113.9:51234", "203.0.113.9"),
        ("127.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("127.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ("127.0.0.1", "[2001:db8::1]:51234", "2001:db8::1"),
        ("127.0.0.1", "fe80::1%eth0", "fe80::1"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.9, _hidden", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.900", "127.0.0.1"),
        ("", "unknown", None),
    ],
)
def test_only_a_proxy_of_ours_says_who_asks(
    connection: str, forwarded: str, client: str | None
) -> None:
    request = RequestFactory().get("/", REMOTE_ADDR=connection, HTTP_X_FORWARDED_FOR=forwarded)

    assert client_address(request) == client


@pytest.mark.parametrize("proxies", ["*", ip_network("10.0.0.0/8"), ip_network("10.0.0.1")])
def test_proxies_may_be_a_network_or_all(settings: Settings, proxies: Any) -> None:
    settings.FORWARDED_ALLOW_IPS = [ip_network("fd00::/8"), proxies]
    request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="203.0.113.9")

    assert client_address(request) == "203.0.113.9"


@pytest.mark.parametrize(
    ("trusted", "connection", "is_trusted"),
    [
        (None, "127.0.0.1", True),
        (None, "::ffff:127.0.0.1", True),
        (None, "::ffff:10.0.0.1", False),
        ("10.0.0.0/8, ::1", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8, ::1", "::ffff:11.1.2.3", False),
        ("10.0.0.0/8, ::1", "::1", True),
    ],
)
def test_gunicorn_trusts_an_ipv4_proxy_on_a_socket_of_ipv6_too(
    monkeypatch: pytest.MonkeyPatch, trusted: str | None, connection: str, is_trusted: bool
) -> None:
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    if trusted:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", trusted)
    config = Config()

    file = runpy.run_path(str(project_settings.BASE_DIR / "gunicorn.conf.py"))
    config.set("forwarded_allow_ips", file["forwarded_allow_ips"])

    networks = config.forwarded_allow_networks()
    assert any(ip_address(connection) in network for network in networks) is is_trusted
