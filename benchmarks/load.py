"""Loads from wrk, each checked: every answer a success, every success a stored record."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from benchmarks.databases import CUSTOMERS, run
from benchmarks.servers import Server

_SCRIPT = Path(__file__).with_name("load.lua")
_SECONDS_OF_PATIENCE = 30
# No id of one run is an id of another, also on a database that is kept.
_loads = (f"{os.getpid():x}{number:x}" for number in itertools.count())


class Load(NamedTuple):
    """A load on one server; `size` 0 is one record that is not in an array.

    If it `is_limited`, some requests may be refused, since its key has more connections than a key
    may hold threads.
    """

    label: str
    server: Server
    size: int = 0
    customers: int = CUSTOMERS
    replays: bool = False
    mix: int = 0
    connections: int = 16
    is_limited: bool = False


class Result(NamedTuple):
    """What one load brought; latencies are those of requests, in seconds.

    `worker_cpu` and `database_cpu` are seconds of processor time for each record.
    """

    records_per_second: float
    p50: float
    p95: float
    p99: float
    name: str
    sent: int
    records: int
    worker_cpu: float
    database_cpu: float


class DishonestRun(Exception):
    """Something was refused, lost or stored that should not have been: the figures mean nothing."""


def require_wrk() -> None:
    """Raise SystemExit, saying what to do, if there is no wrk."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed, and makes the load: apt-get install wrk")


def make(load: Load, seconds: float, *, replayed: Result | None = None) -> Result:
    """Send for so long, then check the answers and the database; raises DishonestRun."""
    name = replayed.name if replayed else next(_loads)
    # Replays are of requests that were surely answered, not of the last ones under way.
    replays = max(1, replayed.sent - 2 * load.connections) if replayed else 0
    options = {
        "name": name,
        "key": load.server.authorization,
        "size": load.size,
        "customers": load.customers,
        "replays": replays,
        "mix": load.mix,
    }
    before = load.server.database.stored()
    busy = load.server.cpu_seconds(), load.server.database.cpu_seconds()
    said = run(
        [
            *("wrk", "--threads", "1", "--connections", str(load.connections)),
            *("--duration", f"{seconds:.0f}s", "--timeout", f"{_SECONDS_OF_PATIENCE}s"),
            *("--script", str(_SCRIPT), load.server.url, "--"),
            *(f"{key}={value}" for key, value in options.items()),
        ],
        {},
    )
    raw = json.loads(said.rpartition("RESULT ")[2])
    worker_cpu = load.server.cpu_seconds() - busy[0]
    database_cpu = load.server.database.cpu_seconds() - busy[1]
    stored = load.server.database.stored() - before
    _check(load, raw, stored)
    records = raw["created"] + raw["replayed"]
    return Result(
        records / raw["seconds"],
        raw["p50"],
        raw["p95"],
        raw["p99"],
        name,
        raw["sent"],
        records,
        worker_cpu / max(1, records),
        database_cpu / max(1, records),
    )


def _check(load: Load, raw: dict[str, int], stored: int) -> None:
    created, replayed = raw["created"], raw["replayed"]
    # When wrk stops, each connection may have a request under way that is stored and not counted.
    under_way = (load.connections + 1) * max(1, load.size)
    as_sent = replayed > 0 if load.mix else (replayed == 0) != load.replays
    refused = raw["broken"] + (0 if load.is_limited else raw["other"])
    if refused or not as_sent or not 0 <= stored - created <= under_way:
        raise DishonestRun(
            f"{load.label} on {load.server.name}: the answers say {created} created, {replayed}"
            f" replayed and {raw['other']} others, {raw['broken']} were broken; {stored} stored."
        )
