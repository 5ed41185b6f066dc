"""What the outbox costs: each enqueue() while it drains, and how fast it drains.

Prints its measurements, against the service that BILLING_URL and BILLING_API_KEY name; `make
bench` runs it so for each round.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import load
from benchmarks.client import facts
from benchmarks.databases import run
from benchmarks.figures import Bound, Figure, ratio
from benchmarks.servers import Server
from billing_client import BillingClient, OutboxWarning

_RECORDS = 20_000
_PER_SECOND = 2_000
_ENQUEUED = 6 * _PER_SECOND
_NO_SERVICE = "http://127.0.0.1:9"

Measured = dict[str, float]


def measure(ours: Server, *, rounds: int, say: Callable[[str], None]) -> list[Measured]:
    """Measure each round in a process of its own, and count its stored records."""
    environment = {
        "BILLING_URL": f"http://127.0.0.1:{ours.port}",
        "BILLING_API_KEY": ours.authorization.removeprefix("Bearer "),
    }
    results = []
    for _ in range(rounds):
        before = ours.database.stored()
        measured: Measured = json.loads(
            run([sys.executable, "-m", "benchmarks.outbox"], environment)
        )
        stored = ours.database.stored() - before
        if stored != 2 * _RECORDS + _ENQUEUED:
            raise load.DishonestRun(f"The outbox sent all of it, but {stored} were stored.")
        results.append(measured)
        say(f"the client's outbox: {', '.join(_lines(measured))}")
    return results


def figures(results: list[Measured]) -> list[Figure]:
    """Its bounds: what a caller waits for, and that it keeps up with the client without it."""
    return [
        _milliseconds("median", results, Bound(0.04, 0.033, at_most=True)),
        _milliseconds("p99", results, Bound(1.0, 0.5, at_most=True)),
        ratio(
            "outbox, drain ÷ record_many of as many over one connection",
            [one["drained"] for one in results],
            [one["recorded"] for one in results],
            Bound(0.8, 1.0),
        ),
    ]


def _milliseconds(name: str, results: list[Measured], bound: Bound) -> Figure:
    values = [1000 * one[name] for one in results]
    label = f"outbox, enqueue while draining, {name} (ms)"
    return Figure(label, statistics.median(values), min(values), max(values), bound)


def _lines(measured: Measured) -> list[str]:
    return [
        f"enqueue {1000 * measured['median']:.3f} ms, p99 {1000 * measured['p99']:.3f} ms",
        f"record_many {measured['recorded']:,.0f} records/s",
        f"drain {measured['drained']:,.0f} records/s",
    ]


def main() -> Measured:
    """Measure once."""
    with tempfile.TemporaryDirectory(prefix="billing-bench-") as folder:
        recorded = _recorded()
        drained = _drained(folder)
        with BillingClient(outbox=folder) as billing:
            times = sorted(_enqueued(billing))
            if billing.flush(60).pending:
                raise SystemExit("The outbox did not drain: look at the service's log.")
    p99 = times[int(len(times) * 0.99)]
    return {
        "median": statistics.median(times),
        "p99": p99,
        "recorded": recorded,
        "drained": drained,
    }


def _recorded() -> float:
    """Records a second of record_many over one connection, which is what the outbox has."""
    with BillingClient() as billing:
        usages = list(facts(_RECORDS))
        began = time.perf_counter()
        billing.record_many(usages, connections=1).raise_for_rejected()
        return _RECORDS / (time.perf_counter() - began)


def _drained(folder: str) -> float:
    """Records a second that one client sends of what another could not."""
    billing = BillingClient(_NO_SERVICE, outbox=folder)
    for usage in facts(_RECORDS):
        billing.enqueue(usage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutboxWarning)  # of what it leaves, as it should
        billing.close(0)
    (Path(folder) / "service.json").unlink()  # it was for the address that does not answer
    with BillingClient(outbox=folder) as billing:
        began = time.perf_counter()
        flushed = billing.flush(120)
        seconds = time.perf_counter() - began
    if flushed.sent != _RECORDS:
        raise SystemExit(f"{flushed} after {seconds:.1f} s; expected {_RECORDS} records sent.")
    return _RECORDS / seconds


def _enqueued(billing: BillingClient) -> Iterator[float]:
    """The seconds of each call, at a rate at which the outbox drains all the time."""
    usages = list(facts(_ENQUEUED))
    due = time.perf_counter()
    for usage in usages:
        began = time.perf_counter()
        billing.enqueue(usage)
        yield time.perf_counter() - began
        due += 1 / _PER_SECOND
        time.sleep(max(0.0, due - time.perf_counter()))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
