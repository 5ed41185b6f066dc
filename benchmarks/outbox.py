"""What the outbox costs: ``python -m benchmarks.outbox`` (needs no database; a stand-in answers).

The stand-in takes as long for a record as it is told (--record-us, default 60), in a process of
its own, so that what is measured is the client: the time of enqueue() while the outbox drains,
and the rate at which it drains, over that of record_many().
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from billing_client import BillingClient, Usage
from billing_client.tests.faulty import Exchange, FaultyServer, honest

_KEY = "bk_not_a_real_key_of_anybody"


def main() -> None:
    """Measure, and print three lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--per-second", type=int, default=2_000)
    parser.add_argument("--record-us", type=float, default=60.0)
    options = parser.parse_args()
    with _stand_in(options.record_us) as url, tempfile.TemporaryDirectory() as folder:
        with BillingClient(url, _KEY) as billing:
            facts = _facts(options.records)
            began = time.perf_counter()
            billing.record_many(facts)
            many = options.records / (time.perf_counter() - began)
        with BillingClient(url, _KEY, outbox=folder) as billing:
            times = sorted(_enqueue(billing, _facts(options.records), options.per_second))
            billing.flush(600)
        drained = _drain_rate(url, folder, options.records)
    median, p99 = statistics.median(times) * 1e3, times[int(len(times) * 0.99)] * 1e3
    _say(f"enqueue while draining: median {median:.3f} ms, p99 {p99:.3f} ms")
    _say(f"record_many: {many:,.0f} records/s")
    _say(f"drain: {drained:,.0f} records/s, {drained / many:.2f} of record_many's rate")


def _facts(number: int) -> list[Usage]:
    return [
        Usage(customer_id=n % 97 + 1, service="CDN", units_consumed=n + 1, price_per_unit="0.02")
        for n in range(number)
    ]


def _enqueue(billing: BillingClient, facts: list[Usage], per_second: int) -> Iterator[float]:
    """Enqueue at that rate, so that the outbox drains all the time."""
    due = time.perf_counter()
    for usage in facts:
        began = time.perf_counter()
        billing.enqueue(usage)
        yield time.perf_counter() - began
        due += 1 / per_second
        time.sleep(max(0.0, due - time.perf_counter()))


def _drain_rate(url: str, folder: str, number: int) -> float:
    """What was left by a client that could not send, drained by one that can."""
    with BillingClient("http://127.0.0.1:9", _KEY, outbox=folder) as billing:
        for usage in _facts(number):
            billing.enqueue(usage)
        billing.close(0)
    with BillingClient(url, _KEY, outbox=folder) as billing:
        began = time.perf_counter()
        flushed = billing.flush(600)
        seconds = time.perf_counter() - began
    if flushed.sent != number:
        raise SystemExit(f"{flushed} after {seconds:.1f} s; expected {number} records sent.")
    return number / seconds


@contextmanager
def _stand_in(record_us: float) -> Iterator[str]:
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(its, record_us))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("end")
        process.join(10)


def _serve(pipe: Connection, record_us: float) -> None:
    def slow(exchange: Exchange) -> None:
        exchange.server.script.append(slow)
        time.sleep(exchange.request.body.count(b'"request_id"') * record_us / 1e6)
        honest(exchange)

    with FaultyServer() as server:
        server.script.append(slow)
        pipe.send(server.url)
        pipe.recv()


def _say(line: str) -> None:
    print(line)  # noqa: T201 - a benchmark prints


if __name__ == "__main__":
    main()
