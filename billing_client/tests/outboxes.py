"""What the tests of the outbox share: clients, other processes, and looking into files."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import billing_client
from billing_client import BillingClient, Usage
from billing_client.outbox.drainer import Drainer
from billing_client.outbox.files import Files
from billing_client.outbox.names import files
from billing_client.outbox.store import Store
from billing_client.tests.conftest import KEY
from billing_client.tests.faulty import FaultyServer

ROOT = Path(billing_client.__file__).parent.parent
# The long form of the tests runs with SOAK=1, see `make soak`.
SOAK = bool(os.environ.get("SOAK"))
# For scripts: the modules' times in hundredths, and a way to make facts.
PREAMBLE = """
import os, signal, sys, threading, time
from billing_client import BillingClient, OutboxFull, Usage
from billing_client.outbox import forks, orphans, pace
forks.EXIT_SECONDS = 0.5
pace.FIRST_CEILING, pace.LAST_CEILING = 0.01, 0.2
pace.SHORTEST_SECONDS, orphans.RESCAN_SECONDS = 0.01, 0.05
def fact(request_id):
    return Usage(
        customer_id=123, service="x", units_consumed=1, price_per_unit=1, request_id=request_id
    )
billing = BillingClient(sys.argv[1], "bk_0123456789abcdef_not_a_real_key", outbox=sys.argv[2])
"""
NOBODY = "http://127.0.0.1:9"


def fact(request_id: str, **more: Any) -> Usage:
    content = {"customer_id": 123, "service": "x", "units_consumed": 1, "price_per_unit": 1}
    return Usage(**{**content, **more}, request_id=request_id)


def inside(billing: BillingClient) -> tuple[Files, Drainer]:
    """What a client's outbox has in this process."""
    assert billing._outbox is not None
    return billing._outbox._here()


@contextlib.contextmanager
def hurried(url: str, directory: Path, **options: Any) -> Iterator[BillingClient]:
    client = BillingClient(url, KEY, outbox=directory, **options)
    try:
        yield client
    finally:
        client.close(0)


def orphan(directory: Path, *ids: str) -> Path:
    """The file of a process that died."""
    store = Store.create(directory)
    for name in ids:
        store.append(name, fact(name).to_json(), stamped=False)
    store.close()
    return store.path


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PREAMBLE + script, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, *arguments: str | Path) -> tuple[int, str, str]:
    """The exit code and what was written, of a process that ends by itself."""
    with start(script, *arguments) as process:
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, out, err


def drained(directory: Path, server: FaultyServer) -> set[str]:
    """The ids the service has once a new process has drained the directory."""
    with hurried(server.url, directory) as billing:
        flushed = billing.flush(600 if SOAK else 60)
        assert flushed.paused_reason is None
    assert [path.name for path in files(directory)] == []
    return set(server.service.stored)


def contents(directory: Path, table: str = "usage") -> list[str]:
    """The ids in the files of dead processes."""
    ids: list[str] = []
    for path in files(directory):
        store = Store.adopt(path)
        ids += [str(row[0]) for row in store.execute(f"SELECT request_id FROM {table}")]
        store.close()
    return sorted(ids)


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.005)


def sent_ids(body: bytes) -> list[str]:
    return [record["request_id"] for record in json.loads(body)]
