"""Helpers of the outbox's tests: clients, other processes, and looking into files."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import billing_client
from billing_client import BillingClient, OutboxWarning, Usage
from billing_client.config import endpoint_of
from billing_client.outbox.commands import refused
from billing_client.outbox.directory import Directory
from billing_client.outbox.outbox import Outbox
from billing_client.outbox.segment import DELIVERED, PENDING, Segment, line_of, rows_of
from billing_client.tests.faulty import KEY, FaultyServer

ROOT = Path(billing_client.__file__).parent.parent
# The long form of the tests runs with SOAK=1, see `make soak`.
SOAK = bool(os.environ.get("SOAK"))
# For scripts: the module's times in hundredths, and a way to make facts.
PREAMBLE = """
import os, signal, sys, threading, time, warnings
from billing_client import BillingClient, OutboxFull, OutboxWarning, Usage
from billing_client.outbox import outbox
warnings.simplefilter("ignore", OutboxWarning)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which `make test &` has ignored
outbox.EXIT_SECONDS, outbox.RESCAN_SECONDS, outbox.LINGER_SECONDS = 0.5, 0.05, 0.01
outbox.ATTEMPTS = (0.01, 0.2, 0.01)
def fact(request_id):
    return Usage(
        customer_id=123, service="x", units_consumed=1, price_per_unit=1, request_id=request_id
    )
billing = BillingClient(sys.argv[1], "bk_0123456789abcdef_not_a_real_key", outbox=sys.argv[2])
"""
NO_SERVICE = "http://127.0.0.1:9"


def fact(request_id: str, **more: Any) -> Usage:
    content = {"customer_id": 123, "service": "x", "units_consumed": 1, "price_per_unit": 1}
    return Usage(**{**content, **more}, request_id=request_id)


def facts(count: int) -> list[Usage]:
    return [fact(f"n{n}") for n in range(count)]


def inside(billing: BillingClient) -> Outbox:
    assert billing._outbox is not None
    return billing._outbox


def moved(directory: Path, url: str) -> None:
    """Let the directory be for this service, whichever it was for."""
    directory.mkdir(exist_ok=True)
    (directory / "service.json").unlink(missing_ok=True)
    Directory(directory).remember(endpoint_of(url), datetime.now(UTC))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutboxWarning)
        yield


def leave(billing: BillingClient) -> None:
    """Close a client as its process's end would, without time to send."""
    with quiet():
        billing.close(0)


@contextlib.contextmanager
def hurried(url: str, directory: Path, **options: Any) -> Iterator[BillingClient]:
    """A client that leaves its unsent records."""
    with contextlib.suppress(OSError):  # a test of directories that cannot be used
        moved(directory, url)
    with quiet():
        client = BillingClient(url, KEY, outbox=directory, **options)
        try:
            yield client
        finally:
            client.close(0)


def orphan(directory: Path, *ids: str, kind: str = "usage", **more: Any) -> Path:
    """The file of a process that ended."""
    segment = Segment.create(directory, kind)
    for name in ids:
        segment.append(line_of(fact(name, **more).to_json(), stamped=False, at=time.time()))
    return segment.path  # its lock ends with it


def start(script: str, *arguments: str | Path, first: str = "") -> subprocess.Popen[str]:
    moved(Path(arguments[1]), str(arguments[0]))
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", first + PREAMBLE + script, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, *arguments: str | Path, first: str = "") -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a process that ends by itself."""
    with start(script, *arguments, first=first) as process:
        try:
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
    return process.returncode, out, err


def drained(directory: Path, server: FaultyServer) -> set[str]:
    """The ids the service has once a new process has drained the directory."""
    with hurried(server.url, directory) as billing:
        # A thread that has not noticed the end of its client may still have a file.
        eventually(lambda: not billing.flush(600).paused_reason and not segments(directory))
    return set(server.service.stored)


def segments(directory: Path) -> list[Path]:
    """The files that wait, of all processes."""
    return Directory(directory).segments()


def contents(directory: Path) -> list[str]:
    """The ids that wait."""
    return sorted(row.request_id for path in segments(directory) for row in rows_of(path, PENDING))


def kept(directory: Path) -> list[str]:
    """The ids in the files of delivered usage, the oldest first."""
    files = Directory(directory).kept()
    return [row.request_id for path in files for row in rows_of(path, DELIVERED)]


def rejected(directory: Path) -> list[str]:
    """The ids that were refused."""
    return sorted(entry["request_id"] for _, _, entry in refused(directory))


def sent_ids(body: bytes) -> list[str]:
    return [record["request_id"] for record in json.loads(body)]


def times_sent(server: FaultyServer) -> Counter[str]:
    """How often the server was sent each id."""
    return Counter(name for seen in server.seen for name in sent_ids(seen.body))


def eventually(condition: Callable[[], object], seconds: float = 300.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.005)
