"""Threads share a client; processes share nothing but its settings."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import billing_client
from billing_client import BillingClient, ConfigurationError
from billing_client.processes import Process
from billing_client.tests.faulty import KEY, FaultyServer

# It starts processes. Other tests measure this code.
pytestmark = [pytest.mark.live, pytest.mark.no_cover]
ROOT = Path(billing_client.__file__).parent.parent
FACT: dict[str, Any] = {
    "customer_id": 123,
    "service": "Database Hosting",
    "units_consumed": 58,
    "price_per_unit": "0.05",
}


def connections(server: FaultyServer) -> list[int]:
    return [request.connection for request in server.seen]


def test_threads_share_a_client(
    billing: BillingClient, server: FaultyServer, caplog: pytest.LogCaptureFixture
) -> None:
    def report(n: int) -> str:
        return billing.record_usage(**FACT, request_id=f"n{n}").request_id

    with ThreadPoolExecutor(16) as threads:
        answered = list(threads.map(report, range(320)))
    assert answered == [f"n{n}" for n in range(320)]
    assert len(server.service.stored) == 320
    assert len(set(connections(server))) <= 16
    assert caplog.records == []


def test_short_lived_threads_share_a_connection(
    billing: BillingClient, server: FaultyServer
) -> None:
    for _ in range(5):
        with ThreadPoolExecutor(1) as thread:
            thread.submit(billing.record_usage, **FACT).result()
    assert set(connections(server)) == {0}


SCRIPT = """
import os, sys
from billing_client import BillingClient

billing = BillingClient(sys.argv[1], sys.argv[2])

def report(request_id):
    billing.record_usage(
        customer_id=1, service="x", units_consumed=1, price_per_unit=1, request_id=request_id
    )

report("parent:1")
child = os.fork()
if child == 0:
    for n in range(3):
        report(f"child:{n}")
    billing.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
report("parent:2")
"""


def test_a_forked_child_never_uses_its_parents_sockets(server: FaultyServer) -> None:
    subprocess.run(  # the arguments are the test's own
        [sys.executable, "-c", SCRIPT, server.url, KEY], check=True, cwd=ROOT, timeout=120
    )
    # Also the parent's connection lives on, though the child closed its own.
    assert connections(server) == [0, 1, 1, 1, 0]
    assert list(server.service.stored) == ["parent:1", "child:0", "child:1", "child:2", "parent:2"]


HELD = """
import os, sys, threading
from billing_client import BillingClient

billing = BillingClient(sys.argv[1], sys.argv[2])
fact = dict(customer_id=1, service="x", units_consumed=1, price_per_unit=1)
billing.record_usage(**fact)
(session,) = billing._transport._sessions.values()
pools = session.get_adapter(sys.argv[1]).poolmanager.pools
idle = pools[pools.keys().pop()].pool
locked, over = threading.Event(), threading.Event()

def use():
    with getattr(idle, "mutex", threading.Lock()):
        locked.set()
        over.wait()

threading.Thread(target=use).start()
locked.wait()
child = os.fork()
if child == 0:
    billing.record_usage(**fact)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
over.set()
"""


def test_a_child_ends_though_another_thread_used_the_idle_connections_at_the_fork(
    server: FaultyServer,
) -> None:
    subprocess.run([sys.executable, "-c", HELD, server.url, KEY], check=True, cwd=ROOT, timeout=120)
    assert connections(server) == [0, 1]


def test_a_fork_outside_python_is_noticed_by_the_pid(
    billing: BillingClient, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    billing.record_usage(**FACT)
    with monkeypatch.context() as child:
        child.setattr("os.getpid", lambda: 4_000_000)
        billing.record_usage(**FACT)
        billing._transport._sessions[Process.name()].close()
    billing.record_usage(**FACT)
    assert connections(server) == [0, 1, 0]


def test_a_pid_that_comes_round_again_is_noticed_by_the_fork(
    billing: BillingClient, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    billing.record_usage(**FACT)
    with monkeypatch.context() as child:
        child.setattr(Process, "forks", Process.forks + 1)
        billing.record_usage(**FACT)
        billing._transport._sessions[Process.name()].close()
    assert connections(server) == [0, 1]


def test_closing_twice_or_unused_is_fine(server: FaultyServer) -> None:
    with BillingClient(server.url, KEY) as billing:
        billing.close()
    with pytest.raises(ConfigurationError, match="closed"):
        billing.record_many([billing_client.Usage(**FACT)])


def test_closing_hangs_up(billing: BillingClient, server: FaultyServer) -> None:
    billing.record_usage(**FACT)
    billing.close()
    assert server.left_alone.wait(60)


COUNTED = """
import os
from billing_client.processes import Process

child = os.fork()
if child == 0:
    os._exit(Process.forks)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
assert Process.forks == 0
"""


def test_forks_are_counted_in_the_child() -> None:
    subprocess.run([sys.executable, "-c", COUNTED], check=True, cwd=ROOT, timeout=120)
