"""Breaks a cluster in production's shape while callers report usage: `make failover`.

etcd, three nodes of Patroni with a synchronous standby, HAProxy and two services run on loopback
with the files of deploy/. Kills and freezes hit the primary, its standby, etcd, the way to the
database and a host. In the end it compares what was acknowledged with what is stored.
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
    running,
)
from benchmarks.report import table

SILENT_SECONDS = 12.0
RECOVERED_SECONDS = 90.0
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


def cut_database(cluster: Cluster) -> Callable[[], None]:
    """Let HAProxy pass nothing on, as a network that went silent."""
    cluster.haproxy.signal(signal.SIGSTOP)
    time.sleep(SILENT_SECONDS)
    return lambda: cluster.haproxy.signal(signal.SIGCONT)


def kill_host(cluster: Cluster) -> Callable[[], None]:
    """Lose the primary and a service at once."""
    service = cluster.services[SERVICE_PORTS[0]]
    service.kill()
    start_node = _lost(cluster, "leader", signal.SIGKILL)

    def start() -> None:
        start_node()
        service.start()

    return start


FAULTS: list[Callable[[Cluster], Callable[[], None]]] = [
    kill_primary,
    freeze_primary,
    kill_standby,
    freeze_standby,
    kill_etcd,
    cut_database,
    kill_host,
]


class Round(NamedTuple):
    """One fault, and the longest time without an acknowledged record that it caused."""

    fault: str
    outage: float
    acknowledged: int


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
                break_once(cluster, fault, callers)
                for fault in itertools.islice(itertools.cycle(FAULTS), arguments.rounds)
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
    """Run a command of the service, and return what it printed."""
    command = [sys.executable, str(ROOT / "manage.py"), *arguments]
    result = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | ENVIRONMENT
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
    cluster: Cluster, fault: Callable[[Cluster], Callable[[], None]], callers: list[Caller]
) -> Round:
    """Inject one fault, mend it, and wait until the cluster is whole and records again."""
    cluster.wait_until_healthy()
    began = time.monotonic()
    mend = fault(cluster)
    direct = [caller for caller in callers if not isinstance(caller, OutboxCaller)]
    mend()
    cluster.wait_until_healthy()
    mended = time.monotonic()
    _wait_for(lambda: all(max(one.acknowledged.values()) > mended for one in direct))
    times = sorted(at for one in direct for at in [*one.acknowledged.values()] if at >= began)
    gaps = [later - earlier for earlier, later in itertools.pairwise([began, *times])]
    name = fault.__name__.replace("_", " ")
    print(f"{name}: {max(gaps):.1f} s without a record", flush=True)
    return Round(name, max(gaps), len(times))


def _wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + RECOVERED_SECONDS
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nothing was recorded for {RECOVERED_SECONDS} s.")
        time.sleep(0.05)


def report(rounds: list[Round], callers: list[Caller], prober: Prober, folder: Path) -> int:
    """Stop the callers, compare, and print the table."""
    for caller in callers:
        caller.stopping.set()
        caller.join(60)
    prober.stopping.set()
    environment = os.environ | {
        "BILLING_API_KEY": callers[0].key,
        "BILLING_URL": f"http://127.0.0.1:{SERVICE_PORTS[1]}",
        "BILLING_OUTBOX_DIR": str(folder / "outbox"),
    }
    for caller in callers:
        if isinstance(caller, OutboxCaller):
            caller.client.close(60)
    command = [sys.executable, "-m", "billing_client", "drain"]
    subprocess.run(command, check=False, env=environment)
    with _connection("billing") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT request_id FROM usage_usagerecord")
        stored = {request_id for (request_id,) in cursor.fetchall()}
    sent = {request_id for caller in callers for request_id in caller.sent}
    acknowledged = {request_id for caller in callers for request_id in caller.acknowledged}
    lost, unsent = acknowledged - stored, stored - sent
    verified = manage("verify_bills").strip().splitlines()[-1]
    rows = [[one.fault, f"{one.outage:.1f} s", str(one.acknowledged)] for one in rounds]
    rows.insert(0, ["fault", "outage", "acknowledged in that round"])
    print("\n".join(table(rows)))
    longest = max(one.longest_answer for one in callers)
    print(
        f"\nacknowledged {len(acknowledged):,}, stored {len(stored):,}, sent {len(sent):,};"
        f" lost {len(lost)}, stored and never sent {len(unsent)}; longest answer {longest:.1f} s;"
        f" longest /livez {prober.longest:.2f} s; {verified}"
    )
    return 1 if lost or unsent else 0


if __name__ == "__main__":
    sys.exit(main())
