"""A service's metrics, as Prometheus would scrape them."""

from __future__ import annotations

import contextlib
import socket
import time

import requests
from prometheus_client.parser import text_string_to_metric_families

from usage.tests.live import Service


def free_port() -> int:
    """Return a port of the loopback that nothing listened on a moment ago."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
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
        """Whether it is so within a few seconds: a request is counted after its answer is sent."""
        for _ in range(100):
            if self.value(name, **labels) == expected:
                return True
            time.sleep(0.05)
        return False

    def total(self, name: str) -> float:
        return sum(value for (sample, _), value in self.samples().items() if sample == name)

    def text(self) -> str:
        for _ in range(200):  # the process that serves them starts beside the workers
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(self.address, timeout=10).text
            time.sleep(0.05)
        raise AssertionError("No metrics are served.")
