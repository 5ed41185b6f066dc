"""What record_many takes, beside wrk with as many connections.

As a process of its own, `python -m benchmarks.client RECORDS CONNECTIONS` reports so many records
to the service that BILLING_URL and BILLING_API_KEY name, and prints what became of them and what
it took: seconds by the clock, and `cost`, seconds of its own processor time for each record.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple

from benchmarks import load
from benchmarks.databases import run
from benchmarks.figures import Bound, Figure, ratio
from benchmarks.load import Load
from benchmarks.servers import Server
from billing_client import BillingClient, Usage
from billing_client.client import CONNECTIONS

_SERVICES = ("Database Hosting", "Load Balancer", "Linux Instance", "CDN Storage")
_RECORDS = 100_000


class Round(NamedTuple):
    """Records a second of the client and of wrk, and the client's own seconds for each record."""

    client: float
    wrk: float
    cost: float


Measured = dict[int, list[Round]]  # by the number of connections


def measure(
    ours: Server,
    *,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
    counts: tuple[int, ...] = (1, CONNECTIONS),
) -> Measured:
    """Measure both in each round, one after the other, with each number of connections."""
    results: Measured = {connections: [] for connections in counts}
    for _ in range(rounds):
        for connections in counts:
            wrk = load.make(
                Load(f"wrk, {connections}", ours, 1000, connections=connections), seconds
            )
            rate, cost = _client(ours, connections)
            results[connections].append(Round(rate, wrk.records_per_second, cost))
            say(
                f"record_many, {connections} connections: {rate:,.0f} records/s,"
                f" {1e6 * cost:.1f} µs of its own for each; wrk: {wrk.records_per_second:,.0f}"
            )
    return results


def figures(results: Measured) -> list[Figure]:
    """Its bounds: the share of the service's rate that it reaches."""
    bounds = {1: Bound(0.6, 0.8), CONNECTIONS: Bound(0.55, 0.7)}
    return [
        ratio(
            f"record_many of {_RECORDS:,} ÷ wrk's batches, {connections} connection(s) each",
            [one.client for one in measured],
            [one.wrk for one in measured],
            bounds.get(connections),
        )
        for connections, measured in results.items()
    ]


def lines(results: Measured) -> list[str]:
    """The lines of the report."""
    return [
        f"record_many of {_RECORDS:,}, {connections} connection(s):"
        f" {median(one.client for one in measured):,.0f} records/s,"
        f" {1e6 * median(one.cost for one in measured):.1f} µs of the client's own time for each"
        for connections, measured in results.items()
    ]


def _client(ours: Server, connections: int) -> tuple[float, float]:
    """Records a second of `record_many`, from facts to receipts, and its own seconds for each."""
    before = ours.database.stored()
    said = run(
        [sys.executable, "-m", "benchmarks.client", str(_RECORDS), str(connections)],
        {
            "BILLING_URL": f"http://127.0.0.1:{ours.port}",
            "BILLING_API_KEY": ours.authorization.removeprefix("Bearer "),
        },
    )
    answer = json.loads(said)
    stored = ours.database.stored() - before
    if answer["created"] != _RECORDS or stored != _RECORDS:
        raise load.DishonestRun(f"The client was told {answer}, but {stored} records were stored.")
    return _RECORDS / answer["seconds"], answer["cost"]


def main(records: int, connections: int) -> dict[str, float]:
    """Hand over the records one by one, as a team's own loop would."""
    with BillingClient() as billing:
        began, busy = time.perf_counter(), time.process_time()
        receipts = billing.record_many(facts(records), connections=connections)
        seconds, cost = time.perf_counter() - began, (time.process_time() - busy) / records
    return {"seconds": seconds, "cost": cost, **Counter(receipt.status for receipt in receipts)}


def facts(records: int) -> Iterator[Usage]:
    """So many, made as they are taken."""
    for number in range(records):
        yield Usage(
            customer_id=1 + number * 7919 % 1000,
            service=_SERVICES[number % len(_SERVICES)],
            units_consumed=1 + number % 97,
            price_per_unit="0.05",
        )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
