"""Callers of the drill: each keeps the records that it sent and their answers, with the time."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from pathlib import Path

import requests

from benchmarks.failover.cluster import SERVICE_PORTS
from billing_client import BillingClient, BillingError, Usage

URLS = [f"http://127.0.0.1:{port}" for port in SERVICE_PORTS]
LIVE_SECONDS = 0.2
PATIENCE_SECONDS = 12.0


class Caller(threading.Thread):
    """Sends usage until it is told to stop."""

    def __init__(self, name: str, key: str) -> None:
        super().__init__(name=name, daemon=True)
        self.key = key
        self.ids = (f"{name}:{number}" for number in itertools.count())
        self.service = "Before the first fault"  # what usage is reported for, by round
        self.sent: dict[str, str] = {}  # by id, its service
        self.acknowledged: dict[str, float] = {}  # by id, the monotonic time
        self.last_acknowledged = 0.0
        self.longest_answers: dict[str, float] = {}  # by service
        self.stopping = threading.Event()

    def run(self) -> None:
        """Send on and on; an error of one round does not end it."""
        while not self.stopping.is_set():
            self.send()

    def send(self) -> None:
        """Send one usage, or some at once."""
        raise NotImplementedError

    def usage(self) -> Usage:
        """Return the next usage, and remember its id."""
        request_id, service = next(self.ids), self.service
        self.sent[request_id] = service
        return Usage(
            request_id=request_id,
            customer_id=1 + len(self.sent) % 100,
            service=service,
            units_consumed=1,
            price_per_unit="0.05",
        )

    def acknowledge(self, *request_ids: str) -> None:
        """Remember that the service has these."""
        self.last_acknowledged = now = time.monotonic()
        self.acknowledged.update(dict.fromkeys(request_ids, now))

    def answered(self, seconds: float) -> None:
        """Remember how long an answer took, if none of the round took longer."""
        longest = self.longest_answers.get(self.service, 0.0)
        self.longest_answers[self.service] = max(longest, seconds)


class RawCaller(Caller):
    """One POST after the other, by plain HTTP, each repeated until it is answered for good."""

    def run(self) -> None:
        self.session = requests.Session()
        super().run()

    def send(self) -> None:
        usage = self.usage()
        body = {
            "request_id": usage.request_id,
            "customer_id": usage.customer_id,
            "service": usage.service,
            "units_consumed": str(usage.units_consumed),
            "price_per_unit": str(usage.price_per_unit),
        }
        for url in itertools.cycle(URLS):
            began = time.monotonic()
            status = 0
            try:
                status = self.session.post(
                    f"{url}/api/v1/usage/",
                    json=body,
                    headers={"Authorization": f"Bearer {self.key}"},
                    timeout=PATIENCE_SECONDS,
                ).status_code
            except requests.Timeout:
                self.answered(PATIENCE_SECONDS)  # at least
            except requests.RequestException:
                pass  # its host was killed: no answer
            else:
                self.answered(time.monotonic() - began)
            if status in {200, 201}:
                self.acknowledge(str(usage.request_id))
                return
            if self.stopping.wait(0.2):
                return


class ClientCaller(Caller):
    """By the client library; usage that was not recorded is sent again, under the same ids."""

    def __init__(self, name: str, key: str, records: int) -> None:
        super().__init__(name, key)
        self.records = records
        self.client = BillingClient(URLS[0], api_key=key)

    def send(self) -> None:
        usages = [self.usage() for _ in range(self.records)]
        while not self.stopping.is_set():
            with contextlib.suppress(BillingError):
                if self.records == 1:
                    one = usages[0]
                    receipt = self.client.record_usage(
                        request_id=one.request_id,
                        customer_id=one.customer_id,
                        service=one.service,
                        units_consumed=one.units_consumed,
                        price_per_unit=one.price_per_unit,
                    )
                    self.acknowledge(receipt.request_id)
                else:
                    receipts = self.client.record_many(usages)
                    self.acknowledge(
                        *(one.request_id for one in receipts if one.status != "rejected")
                    )
                return


class OutboxCaller(Caller):
    """By an outbox: what `enqueue` returned for is as good as acknowledged."""

    def __init__(self, name: str, key: str, folder: Path) -> None:
        super().__init__(name, key)
        self.client = BillingClient(URLS[1], api_key=key, outbox=folder)

    def send(self) -> None:
        usage = self.usage()
        self.client.enqueue(usage)
        self.acknowledge(str(usage.request_id))
        self.stopping.wait(0.005)


class Prober(threading.Thread):
    """Asks the service whose host is spared whether it lives, five times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(LIVE_SECONDS):
            began = time.monotonic()
            requests.get(f"{URLS[1]}/livez", timeout=PATIENCE_SECONDS)
            self.longest = max(self.longest, time.monotonic() - began)
