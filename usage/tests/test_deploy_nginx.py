"""deploy/nginx: callers meet the wire contract through the proxy, whatever breaks behind it."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from django.conf import settings

from usage.tests.books import Books, copied
from usage.tests.factories import usage_body
from usage.tests.live import PATIENCE_SECONDS, Service
from usage.tests.metrics import free_port
from usage.tests.tools import tool

pytestmark = [pytest.mark.live, pytest.mark.once]  # starts processes
CONFIGURATION = Path(settings.BASE_DIR) / "deploy/nginx/billing.conf"
CERTIFICATE = Path(settings.BASE_DIR) / "billing_client/tests/localhost.pem"


class Proxy:
    """nginx with our configuration, between callers and two services."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.port = free_port()
        text = CONFIGURATION.read_text()
        for name, replacement in {
            "listen 443 ssl http2": f"listen 127.0.0.1:{self.port} ssl http2",
            "listen 80": f"listen 127.0.0.1:{free_port()}",
            "127.0.0.1:8000": f"127.0.0.1:{ports[0]}",
            "127.0.0.1:8001": f"127.0.0.1:{ports[1]}",
            "server_name billing.internal": "server_name localhost",
            "/etc/ssl/billing.pem": str(CERTIFICATE),
            "/etc/ssl/private/billing.key": str(CERTIFICATE),
        }.items():
            assert name in text, name
            text = text.replace(name, replacement)
        self.file = folder / "nginx.conf"
        temporary = "".join(
            f"{kind}_temp_path {folder / kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.file.write_text(
            f"daemon off; pid {folder / 'pid'}; error_log {folder / 'error.log'};\n"
            f"events {{}}\nhttp {{ access_log {folder / 'access.log'};\n{temporary}{text}}}\n"
        )
        self.url = f"https://localhost:{self.port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        command = [tool("nginx"), "-c", str(self.file)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                for _ in range(400):
                    with contextlib.suppress(OSError):
                        socket.create_connection(("127.0.0.1", self.port)).close()
                        break
                    time.sleep(0.025)
                yield
            finally:
                process.terminate()

    def post(self, body: Any, key: str, **headers: str) -> requests.Response:
        return requests.post(
            f"{self.url}/api/v1/usage/",
            data=body if isinstance(body, bytes) else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            | headers,
            verify=str(CERTIFICATE),
            timeout=PATIENCE_SECONDS,
        )

    def get(self, path: str) -> requests.Response:
        return requests.get(
            f"{self.url}{path}",
            verify=str(CERTIFICATE),
            timeout=PATIENCE_SECONDS,
            allow_redirects=False,
        )


@contextlib.contextmanager
def proxied(books: Books) -> Iterator[tuple[Proxy, list[Service]]]:
    """A proxy in front of two services with one database."""
    trusted = {"FORWARDED_ALLOW_IPS": "127.0.0.1", "ALLOWED_HOSTS": "localhost,127.0.0.1"}
    with (
        # Not pytest's: each of its runs makes the folder above inaccessible to others again.
        tempfile.TemporaryDirectory(prefix="nginx-") as folder,
        Service(books, environment=trusted, workers=1) as one,
        Service(books, environment=trusted, workers=1) as two,
    ):
        Path(folder).chmod(0o711)  # nginx's workers are not root
        proxy = Proxy(Path(folder), [one.port, two.port])
        with proxy.running():
            yield proxy, [one, two]


@pytest.fixture(scope="module")
def proxy(books_to_copy: Books) -> Iterator[Proxy]:
    with copied(books_to_copy) as books, proxied(books) as made:
        yield made[0]


@pytest.fixture
def key(books_to_copy: Books) -> str:
    return books_to_copy.key


def test_usage_is_recorded_through_the_proxy(proxy: Proxy, key: str) -> None:
    answer = proxy.post(usage_body(customer_id=1), key, **{"X-Request-ID": "mine"})

    assert answer.status_code == 201
    assert answer.headers["X-Request-ID"] == "mine"


def test_a_lost_service_is_hidden_and_without_any_the_answer_is_the_contracts(books: Books) -> None:
    with proxied(books) as (proxy, services):
        services[0].kill()
        for _ in range(4):
            assert proxy.post(usage_body(customer_id=1), books.key).status_code == 201
        services[1].kill()
        answer = proxy.post(usage_body(customer_id=1), books.key)
        page = proxy.get("/admin/login/")

    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["code"] == "service_unavailable"
    assert page.status_code == 502  # nothing of staff's is sent twice


def test_the_service_itself_refuses_a_body_that_is_too_large(proxy: Proxy, key: str) -> None:
    answer = proxy.post(b" " * (3 * 1024 * 1024), key)

    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"


def test_what_a_caller_says_of_its_address_is_overwritten(proxy: Proxy) -> None:
    text = CONFIGURATION.read_text()

    assert "proxy_set_header X-Forwarded-For $remote_addr;" in text
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in text
    # A redirect to HTTPS would say that the scheme did not reach the service.
    assert proxy.get("/admin/login/").status_code == 200


def test_nothing_but_the_api_is_sent_to_a_second_service() -> None:
    text = CONFIGURATION.read_text()
    places = dict(re.findall(r"location (\S+) \{(.*?)\n    \}", text, re.DOTALL))

    assert "non_idempotent" in places["/api/"]
    assert "proxy_next_upstream off;" in places["/"]


def test_metrics_are_not_passed_on(proxy: Proxy) -> None:
    assert proxy.get("/metrics").status_code == 404
