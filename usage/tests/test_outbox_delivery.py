"""The outbox and the real service, behind a proxy that fails in every way: each fact once."""

from __future__ import annotations

import http.client
import os
import random
import warnings
from decimal import Decimal
from pathlib import Path

import pytest

from billing_client import BillingClient, OutboxWarning, Usage
from billing_client.outbox import outbox
from billing_client.outbox.directory import Directory
from billing_client.tests.faulty import Exchange, FaultyServer, message, reset
from billing_client.tests.outboxes import eventually
from usage.tests.books import assert_books_balance
from usage.tests.live import Service

RECORDS = 100_000 if os.environ.get("SOAK") else 3_000


class Proxy(FaultyServer):
    """Passes requests on to the service, and spoils two answers of three."""

    def __init__(self, service: Service, seed: int) -> None:
        super().__init__()
        self.faults: list[str] = []
        self._service = service
        self._chance = random.Random(seed)
        self.healthy = False
        self.script.append(self.relay)

    def relay(self, exchange: Exchange) -> None:
        self.script.append(self.relay)
        names = ["cut", "truncate", "500", "stall", "other ids", "before"]
        fault = "none" if self.healthy else self._chance.choice([*names, "none", "none", "none"])
        self.faults.append(fault)
        if fault == "before":
            exchange.sock.sendall(message(503, b"{}"))
            return
        status, body = self._passed_on(exchange.request.body)
        if fault == "cut":
            reset(exchange.sock)
        elif fault == "truncate":
            exchange.sock.sendall(message(status, body)[:-9])
        elif fault == "500":
            exchange.sock.sendall(message(500, b"{}"))
        elif fault == "stall":
            self.stopping.wait(0.4)
        elif fault == "other ids":
            exchange.sock.sendall(message(status, body.replace(b'"fact', b'"tcaf')))
        else:
            exchange.sock.sendall(message(status, body))
            exchange.keep = True

    def _passed_on(self, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=30)
        key = {"Authorization": f"Bearer {self._service.books.key}"}
        connection.request(
            "POST", "/api/v1/usage/", body, {"Content-Type": "application/json", **key}
        )
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer


@pytest.mark.no_cover
@pytest.mark.timeout(900)
def test_every_fact_is_recorded_once_whatever_becomes_of_the_answers(
    live_service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "ATTEMPTS", (0.01, 0.1, 0.01))
    customer = live_service.customer()
    units = {f"fact:{n}": Decimal(n % 97 + 1) / 10 for n in range(RECORDS)}
    with Proxy(live_service, seed=5) as proxy:
        client = BillingClient(proxy.url, "k" * 40, outbox=tmp_path, read_timeout=0.3)
        for name, number in units.items():
            client.enqueue(
                Usage(
                    customer_id=customer,
                    service="CDN",
                    units_consumed=number,
                    price_per_unit="0.02",
                    request_id=name,
                )
            )
        for _ in range(400 if RECORDS > 3_000 else 14):
            client.flush(0.5)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", OutboxWarning
            )  # of records that the proxy has not let through
            client.close(0)
        proxy.healthy = True
        # The next process, with time enough for a busy machine to answer in.
        with BillingClient(proxy.url, "k" * 40, outbox=tmp_path) as patient:
            patient.flush(300)
            rejected = patient.stats().rejected
    # A request of the first process may have been under way when it closed its outbox: then either
    # may have sent those records, or both.
    eventually(lambda: not Directory(tmp_path).segments())
    assert client.stats().rejected + rejected == 0
    assert len(set(proxy.faults)) > 4
    rows = live_service.books.table("usage_usagerecord")
    stored = {row["request_id"]: row["units"] for row in rows if row["customer_id"] == customer}
    assert stored == units
    assert_books_balance(live_service.books, of=[customer])
