"""A service's metrics, as Prometheus would scrape them."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from pathlib import Path

import requests
from prometheus_client.parser import text_string_to_metric_families

from usage.tests.live import PATIENCE_SECONDS, Service

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a port of the loopback that nothing listened on a moment ago.

    It is not one of those that the system gives away by itself: until the test's own server listens
    there, any connection of another process could get it.
    """
    first = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32_768
    while True:
        port = random.randrange(min(10_000, first // 2), first)
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Scraped:
    """A service with metrics, and what its last scrape showed."""

    def __init__(self, service: Service, port: int) -> None:
        self.service, self.address = service, f"http://127.0.0.1:{port}/metrics"

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        text = self.text()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.samples().get((name, tuple(sorted(labels.items()))), 0.0)

    def becomes(self, expected: float, name: str, **labels: str) -> bool:
        """Wait until it is so: a request is counted after its answer is sent."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while self.value(name, **labels) != expected:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.05)
        return True

    def total(self, name: str) -> float:
        return sum(value for (sample, _), value in self.samples().items() if sample == name)

    def text(self) -> str:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up:  # the process that serves them starts beside the workers
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(self.address, timeout=PATIENCE_SECONDS).text
            time.sleep(0.05)
        raise AssertionError("No metrics are served.")
