"""The calls that the README recommends in an event loop never hold it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from billing_client import BillingClient, Receipt
from billing_client.tests.faulty import KEY, Behaviour, Exchange, FaultyServer, honest
from billing_client.tests.outboxes import fact, hurried


def gated(gate: threading.Event) -> Behaviour:
    """Answer once the event loop itself has run on: a loop that is held would never open it."""

    def behaviour(exchange: Exchange) -> None:
        assert gate.wait(30), "the event loop was held"
        honest(exchange)

    return behaviour


async def arrival(server: FaultyServer) -> None:
    while not server.seen:  # noqa: ASYNC110 - by a thread, which sets no asyncio.Event
        await asyncio.sleep(0.01)


def test_record_usage_in_a_thread_holds_no_loop(server: FaultyServer) -> None:
    gate = threading.Event()
    server.script.append(gated(gate))

    async def main(billing: BillingClient) -> Receipt:
        call = asyncio.create_task(
            asyncio.to_thread(
                billing.record_usage,
                customer_id=1,
                service="x",
                units_consumed=1,
                price_per_unit=1,
                request_id="one",
            )
        )
        await arrival(server)
        gate.set()
        return await call

    with BillingClient(server.url, KEY) as billing:
        assert asyncio.run(main(billing)).status == "created"


def test_enqueue_holds_no_loop(server: FaultyServer, tmp_path: Path) -> None:
    """Also while the service does not answer."""
    gate = threading.Event()
    server.script.extend([gated(gate)] * 2)

    async def main(billing: BillingClient) -> None:
        billing.enqueue(fact("one"))
        await arrival(server)
        billing.enqueue(fact("two"))
        gate.set()

    with hurried(server.url, tmp_path) as billing:
        asyncio.run(main(billing))
        assert billing.flush(60).pending == 0
    assert set(server.service.stored) == {"one", "two"}
