"""Breaks a cluster in production's shape while callers report usage: `make failover`.

etcd, three nodes of Patroni with a synchronous standby, HAProxy and two services run on loopback
with the files of deploy/. Kills and freezes hit the primary, its standby, etcd, the way to the
database and a host. In the end it compares acknowledged records with stored ones.
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
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psycopg2

from benchmarks.databases import ROOT
from benchmarks.failover.callers import Caller, ClientCaller, OutboxCaller, Prober, RawCaller
from benchmarks.failover.cluster import (
    DATABASE_URL,
    ENVIRONMENT,
    SERVICE_PORTS,
    Cluster,
    Server,
    running,
)
from benchmarks.report import table

SILENT_SECONDS = 12.0
RECOVERED_SECONDS = 90.0
JOINED_SECONDS = 60.0
COMMAND_SECONDS = 300.0
CUSTOMERS = range(1, 101)


def kill_primary(cluster: Cluster) -> Callable[[], None]:
    """End the primary and its Patroni at once."""
    return _lost(cluster, "leader", signal.SIGKILL)


def freeze_primary(cluster: Cluster) -> Callable[[], None]:
    """Stop the primary and its Patroni until another node leads."""
    return _lost(cluster, "leader", signal.SIGSTOP)


def kill_standby(cluster: Cluster) -> Callable[[], None]:
    """End the synchronous standby at once."""
    return _lost(cluster, "sync_standby", signal.SIGKILL)


def freeze_standby(cluster: Cluster) -> Callable[[], None]:
    """Stop the synchronous standby until another node is it."""
    return _lost(cluster, "sync_standby", signal.SIGSTOP)


def _lost(cluster: Cluster, role: str, number: int) -> Callable[[], None]:
    """Signal the node that has a role, and wait until another has it."""
    lost = cluster.number_of(role)
    node = cluster.nodes[lost]
    if number == signal.SIGKILL:
        node.kill()
    else:
        node.signal(number)
    cluster.wait_for_other(role, lost)
    return node.start if number == signal.SIGKILL else lambda: node.signal(signal.SIGCONT)


def kill_etcd(cluster: Cluster) -> Callable[[], None]:
    """Leave Patroni without its store for a while."""
    cluster.etcd.kill()
    time.sleep(SILENT_SECONDS)
    return cluster.etcd.start


def freeze_etcd(cluster: Cluster) -> Callable[[], None]:
    """Let Patroni's store answer nothing for a while."""
    return _silent(cluster.etcd)


def cut_database(cluster: Cluster) -> Callable[[], None]:
    """Let HAProxy pass nothing on, as a network that went silent."""
    return _silent(cluster.haproxy)


def _silent(server: Server) -> Callable[[], None]:
    server.signal(signal.SIGSTOP)
    time.sleep(SILENT_SECONDS)
    return lambda: server.signal(signal.SIGCONT)


def kill_host(cluster: Cluster) -> Callable[[], None]:
    """End the primary and a service at once."""
    service = cluster.services[SERVICE_PORTS[0]]
    service.kill()
    start_node = _lost(cluster, "leader", signal.SIGKILL)

    def start() -> None:
        start_node()
        service.start()

    return start


def freeze_host(cluster: Cluster) -> Callable[[], None]:
    """Stop the primary and a service until another node leads."""
    service = cluster.services[SERVICE_PORTS[0]]
    service.signal(signal.SIGSTOP)
    thaw_node = _lost(cluster, "leader", signal.SIGSTOP)

    def thaw() -> None:
        thaw_node()
        service.signal(signal.SIGCONT)

    return thaw


FAULTS: list[Callable[[Cluster], Callable[[], None]]] = [
    kill_primary,
    freeze_primary,
    kill_standby,
    freeze_standby,
    kill_etcd,
    freeze_etcd,
    cut_database,
    kill_host,
    freeze_host,
]


class Round(NamedTuple):
    """One fault, what usage was reported for meanwhile, and the longest time without a record."""

    fault: str
    service: str
    outage: float


def main() -> int:
    """Run the drill and print its table; return 1 if anything was lost or doubled."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="how many faults (default: 10)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="billing-drill-", dir="/tmp") as name:
        folder = Path(name)
        with running(folder) as cluster:
            key = prepare()
            cluster.start_services()
            callers = start_callers(folder, key)
            prober = Prober()
            prober.start()
            rounds = [
                break_once(cluster, fault, callers, f"Round {number}")
                for number, fault in zip(
                    range(1, arguments.rounds + 1), itertools.cycle(FAULTS), strict=False
                )
            ]
            return report(rounds, callers, prober, folder)


def prepare() -> str:
    """Create the database, its customers and a key; return the key."""
    with contextlib.closing(_connection("postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE billing")
    manage("migrate", "--verbosity", "0")
    csv = "id,name\n" + "".join(f"{number},No. {number}\n" for number in CUSTOMERS)
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.write(csv)
        file.flush()
        manage("import_customers", file.name)
    return manage("create_api_key", "drill").strip()


def manage(*arguments: str) -> str:
    """Run a command of the service, and return its output."""
    command = [sys.executable, str(ROOT / "manage.py"), *arguments]
    result = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT,
        timeout=COMMAND_SECONDS,  # a commit would wait for a lost standby without limit
    )
    return result.stdout


def _connection(database: str) -> psycopg2.extensions.connection:
    url = DATABASE_URL.rpartition("/")[0]
    return psycopg2.connect(f"{url}/{database}?connect_timeout=5&tcp_user_timeout=10000")


def start_callers(folder: Path, key: str) -> list[Caller]:
    """Start callers of every kind, and return them once each has had an answer."""
    callers: list[Caller] = [
        RawCaller("raw-1", key),
        RawCaller("raw-2", key),
        ClientCaller("one", key, records=1),
        ClientCaller("many", key, records=50),
        OutboxCaller("outbox", key, folder / "outbox"),
    ]
    for caller in callers:
        caller.start()
    _wait_for(lambda: all(caller.acknowledged for caller in callers))
    return callers


def break_once(
    cluster: Cluster,
    fault: Callable[[Cluster], Callable[[], None]],
    callers: list[Caller],
    service: str,
) -> Round:
    """Inject one fault, mend it, and wait until the cluster is whole and records again."""
    cluster.wait_until_healthy()
    for caller in callers:
        caller.service = service
    # An outbox acknowledges from its own disk.
    direct = [caller for caller in callers if not isinstance(caller, OutboxCaller)]
    began = time.monotonic()
    mend = fault(cluster)
    mend()
    cluster.wait_until_healthy()
    mended = time.monotonic()
    _wait_for(lambda: all(caller.last_acknowledged > mended for caller in direct))
    times = sorted(at for caller in direct for at in [*caller.acknowledged.values()] if at >= began)
    outage = max(later - earlier for earlier, later in itertools.pairwise([began, *times]))
    name = fault.__name__.replace("_", " ")
    print(f"{service}, {name}: {outage:.1f} s without a record", flush=True)
    return Round(name, service, outage)


def _wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + RECOVERED_SECONDS
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nothing was recorded for {RECOVERED_SECONDS} s.")
        time.sleep(0.05)


def report(rounds: list[Round], callers: list[Caller], prober: Prober, folder: Path) -> int:
    """Stop the callers, compare their answers with the bills, and print the table."""
    for caller in callers:
        caller.stopping.set()
    for caller in callers:
        caller.join(JOINED_SECONDS)
    prober.stopping.set()
    drain(callers, folder)
    records, billed = books()
    sent = {one: service for caller in callers for one, service in caller.sent.items()}
    acknowledged = {one for caller in callers for one in caller.acknowledged}
    lost = Counter(sent[one] for one in acknowledged - records)
    told = Counter(sent[one] for one in acknowledged)
    # Each usage is one unit: any more than one for each id is billed twice.
    stored = Counter(sent[one] for one in records & sent.keys())
    doubled = {service: units - stored[service] for service, units in billed.items()}
    unsent = records - sent.keys()
    rows = [["fault", "times", "outage", "longest answer", "acknowledged", "lost", "doubled"]]
    for fault in dict.fromkeys(one.fault for one in rounds):
        its = [one for one in rounds if one.fault == fault]
        services = [one.service for one in its]
        longest = max(one.longest_answers.get(name, 0) for one in callers for name in services)
        rows.append(
            [
                fault,
                str(len(its)),
                ", ".join(f"{one.outage:.1f} s" for one in its),
                f"{longest:.1f} s",
                f"{sum(told[name] for name in services):,}",
                str(sum(lost[name] for name in services)),
                f"{sum(doubled.get(name, 0) for name in services)}",
            ]
        )
    print("\n" + "\n".join(table(rows)))
    print(
        f"\n{len(acknowledged):,} acknowledged, {len(records):,} stored, {len(sent):,} sent;"
        f" {sum(lost.values())} lost, {sum(doubled.values())} doubled,"
        f" {len(unsent)} stored and never sent; longest /livez {prober.longest:.2f} s;"
        f" {manage('verify_bills').strip().splitlines()[-1]}"
    )
    return 1 if lost or any(doubled.values()) or unsent else 0


def drain(callers: list[Caller], folder: Path) -> None:
    """Send what waits in the outbox, as the next process of its team would."""
    for caller in callers:
        if isinstance(caller, OutboxCaller):
            caller.client.close(0)
    command = [sys.executable, "-m", "billing_client", "drain"]
    environment = os.environ | {
        "BILLING_API_KEY": callers[0].key,
        "BILLING_URL": f"http://127.0.0.1:{SERVICE_PORTS[1]}",
        "BILLING_OUTBOX_DIR": str(folder / "outbox"),
    }
    subprocess.run(command, check=True, env=environment)


def books() -> tuple[set[str], dict[str, int]]:
    """Return the ids of all records, and the units on bills of each service."""
    with contextlib.closing(_connection("billing")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT request_id FROM usage_usagerecord")
        records = {request_id for (request_id,) in cursor.fetchall()}
        cursor.execute("SELECT service, sum(units)::bigint FROM usage_dailyusage GROUP BY service")
        return records, dict(cursor.fetchall())


if __name__ == "__main__":
    sys.exit(main())
