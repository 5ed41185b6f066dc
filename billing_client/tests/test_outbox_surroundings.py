"""The outbox under gevent, in sub-interpreters, on other platforms, and at the exit."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import pytest

from billing_client import BillingClient, OutboxWarning
from billing_client.outbox import outbox
from billing_client.outbox.outbox import Outbox
from billing_client.outbox.segment import Segment
from billing_client.tests.conftest import KEY
from billing_client.tests.faulty import Exchange, FaultyServer, honest, refuse
from billing_client.tests.outboxes import (
    NO_SERVICE,
    contents,
    eventually,
    fact,
    hurried,
    inside,
    moved,
    run,
)

# gevent and sub-interpreters

PATCH = """
import warnings; warnings.simplefilter("ignore")  # gevent's, of modules that are in use already
from gevent import monkey; monkey.patch_all()
"""
GEVENT = """
import gevent
def work(name):
    for n in range(50):
        billing.enqueue(fact(f"{name}:{n}"))
        gevent.sleep(0)
if sys.argv[3] == "after use":
    billing.enqueue(fact("first"))
if sys.argv[3] != "before":
    PATCH
gevent.joinall([gevent.spawn(work, f"greenlet{n}") for n in range(3)])
assert billing.flush(30).pending == 0
if sys.argv[4] == "fork":  # as a server's worker after it has loaded the application
    if (child := os.fork()) == 0:
        work("child")
        status = billing.flush(30).pending
        billing.close(2)
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
billing.close(2)
""".replace("PATCH", PATCH.strip().replace("\n", "\n    "))


@pytest.mark.live  # starts processes
@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="It needs gevent.")
@pytest.mark.parametrize("patched", ["before", "after import", "after use"])
@pytest.mark.parametrize("then", ["end", "fork"])
def test_gevent_may_patch_the_process_at_any_time(
    server: FaultyServer, tmp_path: Path, patched: str, then: str
) -> None:
    first = PATCH if patched == "before" else ""
    code, out, err = run(GEVENT, server.url, tmp_path, patched, then, first=first)
    assert (code, out, err) == (0, "", "")
    names = {f"greenlet{n}:{k}" for n in range(3) for k in range(50)}
    if patched == "after use":
        names.add("first")
    if then == "fork":
        names |= {f"child:{k}" for k in range(50)}
    assert set(server.service.stored) == names


SUBINTERPRETER = """
import _testcapi
script = '''
import sys
sys.argv, sys.path[:] = %r, %r
import warnings; warnings.simplefilter("ignore")  # of requests, whose parts have no second copy
from billing_client import BillingClient, Usage
usage = Usage(customer_id=1, service="x", units_consumed=1, price_per_unit=1, request_id="one")
billing = BillingClient(sys.argv[1], "bk_0123456789abcdef_not_a_real_key", outbox=sys.argv[2])
billing.enqueue(usage)
''' % (sys.argv, sys.path)
billing.close(0)
assert _testcapi.run_in_subinterp(script) == 0  # and ends it, as servers written in C do
print("alive")
"""


def slow(exchange: Exchange) -> None:
    exchange.server.stopping.wait(3)
    honest(exchange)


@pytest.mark.live  # starts processes
@pytest.mark.skipif(importlib.util.find_spec("_testcapi") is None, reason="It needs _testcapi.")
def test_the_end_of_a_subinterpreter_does_not_abort_the_process(
    server: FaultyServer, tmp_path: Path
) -> None:
    """It waits for the thread, which an answer keeps longer than the exit is to take."""
    server.script.append(slow)
    code, out, err = run(SUBINTERPRETER, server.url, tmp_path)
    assert (code, out, err) == (0, "alive\n", "")
    assert list(server.service.stored) == ["one"]


# Ends, and unsent records


def test_close_warns_of_what_it_leaves(tmp_path: Path) -> None:
    moved(tmp_path, NO_SERVICE)
    billing = BillingClient(NO_SERVICE, KEY, outbox=tmp_path)
    billing.enqueue(fact("one"))
    billing.enqueue(fact("two"))
    with pytest.warns(OutboxWarning, match=rf"^2 usage records .* --outbox {tmp_path} drain$"):
        billing.close(0)
    assert contents(tmp_path) == ["one", "two"]


def test_a_second_client_of_a_directory_warns(tmp_path: Path) -> None:
    with BillingClient(NO_SERVICE, KEY, outbox=tmp_path):
        with (
            pytest.warns(OutboxWarning, match="share one"),
            BillingClient(NO_SERVICE, KEY, outbox=tmp_path),
        ):
            pass
        with BillingClient(NO_SERVICE, KEY, outbox=tmp_path / "another"):
            pass
    with BillingClient(NO_SERVICE, KEY, outbox=tmp_path):
        pass


def test_the_exit_has_one_bound_for_all_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    given: list[float] = []

    def close(self: Outbox, timeout: float, *, at_exit: bool) -> None:
        nonlocal now
        given.append(timeout)
        now += 0.7

    with contextlib.ExitStack() as clients:
        for n in range(4):
            clients.enter_context(hurried(NO_SERVICE, tmp_path / str(n)))
        with monkeypatch.context() as ending:
            ending.setattr("billing_client.retries.monotonic", lambda: now)
            ending.setattr(Outbox, "close", close)
            outbox._at_exit()
    assert given == pytest.approx([2.0, 1.3, 0.6, 0.0])


@pytest.mark.parametrize("call", ["flush", "close"])
@pytest.mark.parametrize("timeout", [None, float("inf"), 1e12])
def test_a_timeout_may_be_for_ever(
    server: FaultyServer, tmp_path: Path, call: str, timeout: float | None
) -> None:
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("one"))
        getattr(billing, call)(timeout)
        assert list(server.service.stored) == ["one"]


# Foreign numbers


@pytest.mark.parametrize("retry_after", ["999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_retry_after_stops_the_sending_for_more_than_an_hour(
    server: FaultyServer, tmp_path: Path, retry_after: str
) -> None:
    server.script.append(refuse(503, "service_unavailable", Retry_After=retry_after))
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("one"))
        eventually(lambda: billing.stats().last_error is not None)
        stats = billing.stats()
    assert stats.next_attempt_seconds is not None
    assert 3500 < stats.next_attempt_seconds < 3700
    assert "The next attempt is due in 36" in (stats.last_error or "")


def test_whatever_goes_wrong_in_the_thread_it_goes_on(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("no memory")

    with hurried(server.url, tmp_path) as billing:
        with monkeypatch.context() as ill:
            ill.setattr(Segment, "take", broken)
            billing.enqueue(fact("one"))
            eventually(lambda: inside(billing).last_error == "no memory")
        eventually(lambda: billing.flush(20).pending == 0)
    assert list(server.service.stored) == ["one"]
