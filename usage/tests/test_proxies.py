"""Whose address counts behind a proxy."""

from ipaddress import ip_network
from typing import Any

import pytest
from django.test import RequestFactory
from pytest_django.fixtures import Settings

from billing_project.proxies import client_address


@pytest.mark.parametrize(
    ("connection", "forwarded", "client"),
    [
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "made up, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("", "203.0.113.9", "203.0.113.9"),
        ("198.51.100.7", "203.0.113.9", "198.51.100.7"),
    ],
)
def test_only_a_proxy_of_ours_says_who_asks(connection: str, forwarded: str, client: str) -> None:
    request = RequestFactory().get("/", REMOTE_ADDR=connection, HTTP_X_FORWARDED_FOR=forwarded)

    assert client_address(request) == client


@pytest.mark.parametrize("proxies", ["*", ip_network("10.0.0.0/8"), ip_network("10.0.0.1")])
def test_proxies_may_be_a_network_or_all(settings: Settings, proxies: Any) -> None:
    settings.FORWARDED_ALLOW_IPS = [ip_network("fd00::/8"), proxies]
    request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="203.0.113.9")

    assert client_address(request) == "203.0.113.9"
