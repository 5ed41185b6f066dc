from __future__ import annotations

import logging
from typing import Any

import pytest

from billing_client import BillingClient, ConfigurationError
from billing_client.config import Limits

URL = "https://billing.example.com"
KEY = "bk_secret_0123456789"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "billing.example.com",
            "ftp://billing.example.com",
            "https://",
            "https:///x",
            "//billing",
            "/x",
        ),
        *(
            "https://billing.example.com:0",
            "https://billing.example.com:99999",
            "https://billing:port",
            "https://[::1",
        ),
        *(
            "https://user:hunter2@billing.example.com",
            "https://hunter2@billing.example.com",
            "https://a:hunter2",
            "user:hunter2@billing.example.com",
            "https:/user:hunter2@billing.example.com",
            "billing.example.com?key=hunter2",
        ),
        *(
            "https://billing.example.com?x=hunter2",
            "https://billing.example.com#x",
            "https://billing.example.com?",
        ),
        *(
            "https://billing.example.com/ hunter2",
            "https://billing.example.com\n",
            "https://bücher.example",
        ),
    ],
)
def test_a_wrong_address_is_refused_at_once_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^The billing URL .*\.$") as caught:
        BillingClient(url, KEY)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "/", "/api/v1/usage", "/api/v1/usage/"])
@pytest.mark.parametrize("prefix", ["", "/billing"])
def test_the_address_of_the_endpoint_is_that_of_the_service(prefix: str, path: str) -> None:
    with BillingClient(f"{URL}{prefix}{path}", KEY) as billing:
        assert repr(billing) == f"<BillingClient for {URL}{prefix}/api/v1/usage/>"


@pytest.mark.parametrize("key", ["a b", "abc\n", "\tabc", "schlüssel", "a\x00b", "a\x7f"])
def test_a_wrong_key_is_refused_at_once_and_not_repeated(key: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^The API key has spaces, control or non-ASCII"
    ) as caught:
        BillingClient(URL, key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("missing", [None, ""])
def test_a_missing_setting_names_its_variable(missing: str | None) -> None:
    with pytest.raises(ConfigurationError, match="set BILLING_URL"):
        BillingClient(missing, KEY)
    with pytest.raises(ConfigurationError, match="set BILLING_API_KEY"):
        BillingClient(URL, missing)


def test_a_setting_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="The api_key is a bytes"):
        BillingClient(URL, b"key")  # type: ignore[arg-type]  # as untyped callers do


def test_limits_are_finite_by_default() -> None:
    with BillingClient(URL, KEY) as billing:
        limits = billing._limits
    assert limits == Limits() == Limits(connect=3.05, read=10, attempts=5, total=30)


@pytest.mark.parametrize("name", ["connect_timeout", "read_timeout", "total_timeout"])
@pytest.mark.parametrize(
    "value", [0, -1, None, float("inf"), float("nan"), True, "10", 86_401, 1e300]
)
def test_times_are_seconds_above_0_and_at_most_a_day(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name} is .* at most 86400\.$"):
        BillingClient(URL, KEY, **{name: value})


@pytest.mark.parametrize("attempts", [0, -1, 1.5, None, True, "5"])
def test_attempts_are_a_whole_number_of_at_least_1(attempts: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^attempts is "):
        BillingClient(URL, KEY, attempts=attempts)


@pytest.mark.parametrize("host", ["billing.internal:8000", "10.0.0.7", "[2001:db8::1]"])
def test_plain_http_to_another_machine_is_warned_of(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    BillingClient(f"http://{host}", KEY)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "unencrypted" in record.getMessage()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000",
        "http://localhost",
        "http://app.localhost",
        "http://[::1]:1",
        URL,
        "HTTPS://x",
    ],
)
def test_nothing_else_is(url: str, caplog: pytest.LogCaptureFixture) -> None:
    BillingClient(url, KEY)
    assert caplog.records == []
