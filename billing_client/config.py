"""The client's settings, checked when it is made rather than at the first failure."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from dataclasses import dataclass
from types import UnionType
from urllib.parse import urlsplit

from billing_client.errors import ConfigurationError

logger = logging.getLogger(__name__)

ENDPOINT = "/api/v1/usage/"
# No call needs more. A socket waits for ever if it is told more than 24 days.
LONGEST_SECONDS = 86_400
# How much may wait in an outbox, and how many delivered records are kept.
MOST_RECORDS = 1_000_000
MOST_BYTES = 1024**3
KEEP_DAYS = 40  # the service's grace for late usage, and a month
KEEP_BYTES = 256 * 1024**2
_VISIBLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a request may take, in seconds, and how often it may be tried; see BillingClient.

    Raises ConfigurationError if one is not a number above 0, or is more than a day.
    """

    connect: float = 3.05
    read: float = 10.0
    attempts: int = 5
    total: float = 30.0

    def __post_init__(self) -> None:
        for name in ("connect", "read", "total"):
            value = getattr(self, name)
            if not _is_a(value, int | float) or not 0 < value <= LONGEST_SECONDS:
                raise ConfigurationError(
                    f"{name}_timeout is {value!r}, expected a number of seconds above 0 and "
                    f"at most {LONGEST_SECONDS}."
                )
        if not _is_a(self.attempts, int) or self.attempts < 1:
            raise ConfigurationError(
                f"attempts is {self.attempts!r}, expected a whole number of at least 1."
            )


def _is_a(value: object, number: type | UnionType) -> bool:
    return isinstance(value, number) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much an outbox may have on disk. Raises ConfigurationError."""

    records: int = MOST_RECORDS  # of this process, that wait
    size: int = MOST_BYTES  # that wait in the whole directory
    keep_days: int = KEEP_DAYS  # for the files of delivered records
    keep_bytes: int = KEEP_BYTES  # of them; fewer where ``size`` would be exceeded

    def __post_init__(self) -> None:
        _check_whole("outbox_max_records", self.records, least=1)
        _check_whole("outbox_max_bytes", self.size, least=1)
        _check_whole("outbox_keep_days", self.keep_days, least=0, most=36_500)
        _check_whole("outbox_keep_bytes", self.keep_bytes, least=0)


def _check_whole(name: str, value: int, *, least: int, most: int = 2**50) -> None:
    if not _is_a(value, int) or not least <= value <= most:
        raise ConfigurationError(
            f"{name} is {value!r}, expected a whole number from {least} to {most}."
        )


def endpoint_of(url: str | None) -> str:
    """The address usage is posted to, from the argument or BILLING_URL.

    Raises ConfigurationError, which never repeats an address that may hold a password.
    """
    url = _given(url, "url", "BILLING_URL")
    if not _VISIBLE.fullmatch(url):
        raise ConfigurationError(
            "The billing URL has spaces, control or non-ASCII characters; "
            "expected an address such as https://billing.example.com."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(
            "The billing URL has a malformed host or port; expected one such as https://billing.example.com:8443."
        ) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            "The billing URL holds a user name or password; expected none, pass api_key=… instead."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigurationError(
            "The billing URL is not an http or https address with a host; "
            "expected one such as https://billing.example.com."
        )
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise ConfigurationError(
            "The billing URL has a query or fragment; expected only host and path."
        )
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        logger.warning(
            "the API key travels unencrypted to http://%s; use https outside this machine",
            parts.netloc,
        )
    # The API's documentation shows the address of the endpoint, so some pass that.
    return url.rstrip("/").removesuffix(ENDPOINT.rstrip("/")) + ENDPOINT


def api_key_of(api_key: str | None) -> str:
    """The key, from the argument or BILLING_API_KEY. Raises ConfigurationError, without the key."""
    key = _given(api_key, "api_key", "BILLING_API_KEY")
    if not _VISIBLE.fullmatch(key):
        raise ConfigurationError(
            "The API key has spaces, control or non-ASCII characters, "
            "perhaps a line end read from a file; expected it exactly as create_api_key printed it."
        )
    return key


def _given(value: str | None, argument: str, variable: str) -> str:
    value = os.environ.get(variable) if value is None else value
    if not value:
        raise ConfigurationError(f"There is no {argument}; pass {argument}=… or set {variable}.")
    if not isinstance(value, str):
        raise ConfigurationError(f"The {argument} is a {type(value).__name__}; expected a str.")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
