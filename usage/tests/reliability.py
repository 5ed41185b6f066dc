"""Losses when servers fail: the experiments behind docs/reliability.md.

`python -m usage.tests.reliability` makes all of them and prints the table, in about half an hour;
with the name of one it makes that. Seconds count here, so the machine must have nothing else to do.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

import django

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "usage.tests.settings")
    django.setup()

from billing_client import BillingClient, Receipt, UnavailableError, Usage
from usage.tests.books import Books, assert_books_balance, default_database
from usage.tests.cluster import Cluster, Node, cluster
from usage.tests.factories import usage_body
from usage.tests.live import Caller, Service
from usage.verification import Verification

THREADS = 16  # of each worker, as gunicorn.conf.py has it
CALLERS = 12
CUSTOMERS = 40
MOST_SECONDS = 8.5
MOST_PROBE_SECONDS = 1.0
_PATIENCE_SECONDS = 90.0


class Row(NamedTuple):
    """One kind of fault: how often it was made, and what became of the facts that were sent."""

    kind: str
    injected: int
    acknowledged: int
    lost: int
    doubled: int
    wrong_bills: int
    longest: float
    longest_probe: float
    name: str

    def __str__(self) -> str:
        return (
            f"| {self.kind} | {self.injected} | {self.acknowledged:,} | {self.lost:,}"
            f" | {self.doubled} | {self.wrong_bills} | {self.longest:.1f} s"
            f" | {self.longest_probe:.2f} s | `python -m usage.tests.reliability {self.name}` |"
        )


class Load:
    """Callers that report facts until the block ends, each until it is acknowledged."""

    def __init__(self, service: Service, *, clients: bool) -> None:
        self.sent: set[str] = set()
        self.acknowledged: dict[str, dict[str, Any]] = {}
        self.by_clients: set[str] = set()  # acknowledged by the client library, or handed to it
        self.longest = self.longest_probe = 0.0
        self._service = service
        self._ends = threading.Event()
        self._numbers = itertools.count()
        self._threads = [
            threading.Thread(target=self._call, args=[caller])
            for caller in service.callers(CALLERS)
        ]
        self._threads.append(threading.Thread(target=self._probe))
        if clients:
            works = (self._record_usage, self._record_many, self._enqueue)
            self._threads += [threading.Thread(target=work) for work in works]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(2 * _PATIENCE_SECONDS)
            assert not thread.is_alive()

    def _id(self) -> str:
        request_id = f"fact:{next(self._numbers)}"
        self.sent.add(request_id)
        return request_id

    def _call(self, caller: Caller) -> None:
        while not self._ends.is_set():
            body = usage_body(request_id=self._id(), customer_id=1 + hash(caller) % CUSTOMERS)
            give_up = time.monotonic() + _PATIENCE_SECONDS
            while time.monotonic() < give_up:
                began = time.monotonic()
                answer = caller.post(body)
                self.longest = max(self.longest, time.monotonic() - began)
                if answer.status in {200, 201}:
                    self.acknowledged[body["request_id"]] = answer.json
                    break
                assert answer.status in {429, 503}, answer
                time.sleep(0.1)

    def _probe(self) -> None:
        while not self._ends.wait(0.05):
            began = time.monotonic()
            assert self._service.caller().get("/livez").status == 200
            self.longest_probe = max(self.longest_probe, time.monotonic() - began)

    def _usage(self) -> Usage:
        return Usage(
            customer_id=CUSTOMERS + 1,
            service="Compute",
            units_consumed=1,
            price_per_unit="0.05",
            request_id=self._id(),
        )

    def _client(self, **options: Any) -> BillingClient:
        url = f"http://127.0.0.1:{self._service.port}"
        return BillingClient(url, self._service.books.key, **options)

    def _record_usage(self) -> None:
        with self._client() as billing:
            while not self._ends.wait(0.05):
                with contextlib.suppress(UnavailableError):
                    receipt = billing.record_usage(
                        customer_id=CUSTOMERS + 2,
                        service="Compute",
                        units_consumed=1,
                        price_per_unit="0.05",
                        request_id=self._id(),
                    )
                    self.by_clients.add(receipt.request_id)

    def _record_many(self) -> None:
        with self._client() as billing:
            while not self._ends.wait(0.05):
                usages = [self._usage() for _ in range(50)]
                receipts: Iterable[Receipt] = ()
                try:
                    receipts = billing.record_many(usages)
                except UnavailableError as error:
                    receipts = error.receipts or ()
                self.by_clients |= {receipt.request_id for receipt in receipts}

    def _enqueue(self) -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            self._client(outbox=folder, outbox_max_records=10_000) as billing,
        ):
            while not self._ends.wait(0.02):
                usage = self._usage()
                billing.enqueue(usage)
                self.by_clients.add(usage.request_id)
            while billing.stats().pending:
                billing.flush(_PATIENCE_SECONDS)


class Findings(NamedTuple):
    """The state of the surviving server after one round."""

    lost: int
    doubled: int
    wrong_bills: int


def find(books: Books, load: Load) -> Findings:
    """Compare sent and acknowledged facts with the records; the books must balance."""
    records = books.table("usage_usagerecord")
    stored = {row["request_id"] for row in records}
    acknowledged = load.acknowledged.keys() | load.by_clients
    assert stored <= load.sent
    with default_database(books.url):
        verification = Verification()
        wrong = {difference.bill_id for difference in verification.differences()}
    assert_books_balance(books)
    return Findings(len(acknowledged - stored), len(records) - len(stored), len(wrong))


Fault = Callable[[Cluster, Service], Node]


def experiment(
    name: str,
    kind: str,
    fault: Fault,
    *,
    rounds: int,
    clients: bool = False,
    synchronous: bool = True,
    durable: bool = False,
) -> Row:
    """Make the fault in a new cluster each time, under load; it returns the server that is left."""
    total = Row(kind, 0, 0, 0, 0, 0, 0.0, 0.0, name)
    for _ in range(rounds):
        with cluster(synchronous=synchronous, durable=durable) as servers:
            books = servers.filled()
            servers.add_standby()
            with Service(books, url=servers.url, threads=THREADS) as service:
                with Load(service, clients=clients) as load:
                    time.sleep(2)
                    survivor = fault(servers, service)
                    time.sleep(3)
                found = find(books._replace(url=survivor.url_of("books")), load)
        acknowledged = len(load.acknowledged.keys() | load.by_clients)
        total = total._replace(
            injected=total.injected + 1,
            acknowledged=total.acknowledged + acknowledged,
            lost=total.lost + found.lost,
            doubled=total.doubled + found.doubled,
            wrong_bills=total.wrong_bills + found.wrong_bills,
            longest=max(total.longest, load.longest),
            longest_probe=max(total.longest_probe, load.longest_probe),
        )
    return total


def backend_killed_then_primary_lost(servers: Cluster, _service: Service) -> Node:
    """Kill one server process, upon which PostgreSQL recovers; lose the primary meanwhile."""
    own = "datname = 'books' AND state <> 'idle' AND pid <> pg_backend_pid()"
    backends: list[tuple[Any, ...]] = []
    while not backends:
        backends = servers.primary.rows(f"SELECT pid FROM pg_stat_activity WHERE {own} LIMIT 1")
    with contextlib.suppress(ProcessLookupError):
        os.kill(backends[0][0], signal.SIGKILL)
    time.sleep(1.5)
    return primary_lost(servers, _service)


def primary_lost(servers: Cluster, _service: Service) -> Node:
    servers.primary.lose()
    servers.standby.promote()
    servers.standby.set("synchronous_standby_names", "")
    return servers.standby


def primary_lost_for_long(servers: Cluster, _service: Service) -> Node:
    """Take twelve seconds to notice, as a cluster manager does."""
    servers.primary.lose()
    time.sleep(12)
    return primary_lost(servers, _service)


def standby_frozen(servers: Cluster, service: Service) -> Node:
    servers.standby.freeze()
    time.sleep(60)
    own = "datname = 'books' AND pid <> pg_backend_pid()"
    backends = servers.primary.value(f"SELECT count(*) FROM pg_stat_activity WHERE {own}")
    workers = len(service.workers())
    assert backends <= (THREADS + 1) * workers, f"{backends} processes for {workers} workers"
    servers.standby.thaw()
    return servers.primary


def primary_frozen(servers: Cluster, _service: Service) -> Node:
    servers.primary.freeze()
    time.sleep(20)
    servers.primary.thaw()
    return servers.primary


def disk_slow(servers: Cluster, _service: Service) -> Node:
    """Let each write to the primary's disk take 12 seconds, for 40 seconds."""
    pids = itertools.chain.from_iterable(("-p", str(p.pid)) for p in servers.primary.processes())
    calls = "fsync,fdatasync"
    options = ["-f", "-qq", "-e", f"trace={calls}", "-e", f"inject={calls}:delay_enter=12000000"]
    with subprocess.Popen(["strace", *options, "-o", os.devnull, *pids]) as strace:
        time.sleep(40)
        strace.terminate()
    return servers.primary


def cut_then_lost(servers: Cluster, service: Service) -> Node:
    """Lose the primary one second after the line to its standby was cut."""
    servers.cut()
    time.sleep(1)
    return primary_lost(servers, service)


EXPERIMENTS: dict[str, Callable[[], Row]] = {
    "backend-killed": lambda: experiment(
        "backend-killed",
        "a server process killed under load, the primary lost 1.5 s later",
        backend_killed_then_primary_lost,
        rounds=20,
    ),
    "failover": lambda: experiment(
        "failover",
        "the primary lost, the standby promoted at once; client library and outbox too",
        primary_lost,
        rounds=5,
        clients=True,
    ),
    "long-failover": lambda: experiment(
        "long-failover",
        "the primary lost, the standby promoted 12 s later; client library and outbox too",
        primary_lost_for_long,
        rounds=5,
        clients=True,
    ),
    "standby-frozen": lambda: experiment(
        "standby-frozen", "the standby frozen for 60 s", standby_frozen, rounds=1
    ),
    "primary-frozen": lambda: experiment(
        "primary-frozen", "the primary frozen for 20 s", primary_frozen, rounds=2
    ),
    "disk-slow": lambda: experiment(
        "disk-slow",
        "each write to the primary's disk takes 12 s, for 40 s",
        disk_slow,
        rounds=1,
        durable=True,
    ),
    "asynchronous": lambda: experiment(
        "asynchronous",
        "the primary lost, an **asynchronous** standby promoted",
        cut_then_lost,
        rounds=3,
        synchronous=False,
    ),
}


HEAD = (
    "| fault | times | acknowledged | lost | doubled | wrong bills | longest answer | longest"
    " /livez | command |\n|---|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    """Make the experiments that are named, or all, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m usage.tests.reliability", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPERIMENTS))
    names = parser.parse_args().names or list(EXPERIMENTS)
    sys.stdout.write(f"{HEAD}\n")
    for name in names:
        sys.stdout.write(f"{EXPERIMENTS[name]()}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
