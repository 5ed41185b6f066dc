"""Processes that are killed, fork, patch themselves and end: nothing is lost or printed."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing_client import BillingClient, OutboxWarning
from billing_client.outbox import outbox as outbox_module
from billing_client.outbox.outbox import Outbox
from billing_client.tests.faulty import KEY, Exchange, FaultyServer, honest, stall
from billing_client.tests.outboxes import (
    NO_SERVICE,
    SOAK,
    contents,
    drained,
    eventually,
    fact,
    hurried,
    inside,
    moved,
    run,
    segments,
    start,
)

pytestmark = pytest.mark.live  # starts processes
IDS = 100_000 if SOAK else 3_000

# To a file: a pipe would fill up, and stop its writer until the test reads.
ENDLESS = """
ids = os.open(sys.argv[3], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
for n in range(10_000_000):
    name = f"{os.getpid()}:{n}"
    billing.enqueue(fact(name))
    os.write(ids, (name + "\\n").encode())
"""


def ids_in(file: Path) -> set[str]:
    """The whole lines: the last one may have been cut by the kill."""
    return set(file.read_text().split("\n")[:-1]) if file.exists() else set()


@pytest.mark.no_cover  # other tests measure this code
@pytest.mark.timeout(900)
@pytest.mark.parametrize("url", [NO_SERVICE, None])
def test_enqueued_usage_survives_kill_9(
    server: FaultyServer, tmp_path: Path, url: str | None
) -> None:
    """Also while a thread drains to a service that lives."""
    chance = random.Random(7)
    ids = tmp_path / "ids"
    while len(ids_in(ids)) < IDS:
        known = len(ids_in(ids))
        with start(ENDLESS, url or server.url, tmp_path, ids) as writer:
            eventually(lambda: len(ids_in(ids)) > known)  # noqa: B023 - called at once
            time.sleep(chance.uniform(0, 0.3))  # the moment of death is the chance's
            writer.kill()
    assert ids_in(ids) - drained(tmp_path, server) == set()


# Forks

FORKS = """
import contextlib, ctypes
python = ctypes.PyDLL(None)
def server_fork():
    # As uWSGI forks: in C, with the interpreter's hooks. No thread may begin or end meanwhile:
    # from Python 3.13 on it would wait for a lock that the hook holds, and not let this one go on.
    with writing:
        python.PyOS_BeforeFork()
        child = python.fork()
        (python.PyOS_AfterFork_Parent if child else python.PyOS_AfterFork_Child)()
    return child
done = threading.Event()
if sys.argv[3] == "python":  # which may fork in the middle of another thread's write
    fork, writing = os.fork, contextlib.nullcontext()
else:
    fork, writing = server_fork, threading.Lock()
def write(name):
    for n in range(100):
        with writing:
            billing.enqueue(fact(f"{name}:{n}"))
def write_beside(name):
    write(name)
    done.wait()
threads = [threading.Thread(target=write_beside, args=[f"thread{n}"]) for n in range(3)]
for thread in threads:
    thread.start()
for n in range(10):
    child = fork()
    if child == 0:
        write(f"child{n}")
        if n % 2:
            billing.close(0)
        os._exit(0)
    write(f"parent{n}")
    assert os.waitpid(child, 0)[1] == 0
done.set()
for thread in threads:
    thread.join()
billing.close(0)
"""
FORKED = {
    f"{name}:{n}"
    for name in ["thread0", "thread1", "thread2"]
    + [f"{who}{k}" for who in ("child", "parent") for k in range(10)]
    for n in range(100)
}


@pytest.mark.no_cover  # other tests measure this code
@pytest.mark.parametrize("alive", [False, True])
@pytest.mark.parametrize("how", ["python", "c"])
def test_forks_under_writing_threads_lose_nothing(
    server: FaultyServer, tmp_path: Path, how: str, alive: bool
) -> None:
    code, out, err = run(FORKS, server.url if alive else NO_SERVICE, tmp_path, how)
    assert (code, out, err) == (0, "", "")
    assert drained(tmp_path, server) == FORKED


def test_a_child_of_a_fork_without_hooks_lets_its_parents_file_go(
    server: FaultyServer, tmp_path: Path
) -> None:
    """It inherits the lock, which would last as long as the child."""
    script = """
import ctypes
parent = os.getpid()
outbox.start_new_thread = lambda *_: None  # which may have locks of the interpreter at the fork
billing.enqueue(fact("parent"))
if ctypes.PyDLL(None).fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.01)
    billing.enqueue(fact("child"))
    billing.close(0)
    print("written", flush=True)
    sys.stdin.read()
os._exit(0)
"""
    with start(script, NO_SERVICE, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        assert drained(tmp_path, server) == {"parent", "child"}


def test_a_child_of_a_fork_sends_too(server: FaultyServer, tmp_path: Path) -> None:
    script = """
import multiprocessing
def child():
    billing.enqueue(fact("child"))
    assert billing.flush(10).pending == 0
billing.enqueue(fact("parent"))
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
assert process.exitcode == 0
assert billing.flush(10).pending == 0
"""
    assert run(script, server.url, tmp_path) == (0, "", "")
    assert set(server.service.stored) == {"parent", "child"}


def test_no_shell_command_inherits_the_file(away: BillingClient, tmp_path: Path) -> None:
    away.enqueue(fact("one"))
    listing = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False
    )
    assert str(tmp_path) not in listing.stdout


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
    names |= {"first"} if patched == "after use" else set()
    names |= {f"child:{k}" for k in range(50)} if then == "fork" else set()
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
while not billing._outbox._worker:  # a request is under way
    pass
''' % (sys.argv, sys.path)
billing.close(0)
assert _testcapi.run_in_subinterp(script) == 0  # and ends it, as servers written in C do
print("alive")
"""


def slow(exchange: Exchange) -> None:
    exchange.server.stopping.wait(3)
    honest(exchange)


@pytest.mark.skipif(importlib.util.find_spec("_testcapi") is None, reason="It needs _testcapi.")
def test_the_end_of_a_subinterpreter_does_not_abort_the_process(
    server: FaultyServer, tmp_path: Path
) -> None:
    """It waits for the thread, whose answer takes longer than the exit is to take."""
    server.script.append(slow)
    assert run(SUBINTERPRETER, server.url, tmp_path) == (0, "alive\n", "")
    assert list(server.service.stored) == ["one"]


# Ends

ENDS = {
    "end": "",
    "sys.exit": "sys.exit(3)",
    "os._exit": "os._exit(4)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGTERM handled": "signal.signal(15, lambda *_: sys.exit(5)); os.kill(os.getpid(), 15)",
    "error": 'raise KeyError("mine")',
    "with": "with billing: pass",
    "finalizer": """
class Late:
    def __del__(self, billing=billing, usage=fact("late")):
        billing.enqueue(usage)
late = Late()
""",
}
CODES = {"sys.exit": 3, "os._exit": 4, "SIGTERM": -signal.SIGTERM, "SIGTERM handled": 5, "error": 1}


@pytest.mark.parametrize("alive", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_every_end_is_clean_and_loses_nothing(
    server: FaultyServer, tmp_path: Path, end: str, alive: bool
) -> None:
    script = f'for n in range(50): billing.enqueue(fact(f"n{{n}}"))\n{ENDS[end]}'
    if alive:  # however long a busy machine takes to send
        script = f"outbox.EXIT_SECONDS = 60\n{script}"
    code, out, err = run(script, server.url if alive else NO_SERVICE, tmp_path)
    assert (code, out) == (CODES.get(end, 0), "")
    # An exception prints itself, and nothing else does.
    assert (err.count("Traceback"), err.endswith("KeyError: 'mine'\n")) == (end == "error",) * 2
    assert bool(err) == (end == "error")
    if alive and end in {"end", "sys.exit", "with", "error"}:
        assert len(server.service.stored) == 50  # sent before the end
        assert segments(tmp_path) == []
    expected = {f"n{n}" for n in range(50)} | ({"late"} if end == "finalizer" else set())
    assert drained(tmp_path, server) == expected


def test_ctrl_c_is_one_keyboard_interrupt(server: FaultyServer, tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    writer = start(ENDLESS, NO_SERVICE, tmp_path, ids)
    eventually(lambda: bool(ids_in(ids)))
    writer.send_signal(signal.SIGINT)
    _, err = writer.communicate(timeout=60)
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert ids_in(ids) - drained(tmp_path, server) == set()


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
            outbox_module._at_exit()
    assert given == pytest.approx([2.0, 1.3, 0.6, 0.0])


# Time


@pytest.mark.parametrize("call", ["flush", "close"])
@pytest.mark.parametrize("timeout", [None, float("inf"), 1e12])
def test_a_timeout_may_be_for_ever(
    outbox: BillingClient, server: FaultyServer, call: str, timeout: float | None
) -> None:
    outbox.enqueue(fact("one"))
    getattr(outbox, call)(timeout)
    assert list(server.service.stored) == ["one"]


@pytest.fixture
def black_hole(server: FaultyServer) -> Iterator[str]:
    server.script.extend([stall] * 1000)
    yield server.url
    server.stopping.set()


@pytest.mark.parametrize("url", ["black hole", NO_SERVICE])
def test_no_call_waits_for_the_network(black_hole: str, tmp_path: Path, url: str) -> None:
    longest = 0.0
    with hurried(black_hole if url == "black hole" else url, tmp_path) as billing:
        for n in range(500):
            began = time.monotonic()
            billing.enqueue(fact(f"n{n}"))
            longest = max(longest, time.monotonic() - began)
        began = time.monotonic()
        assert billing.flush(0.3).pending == 500
        flushed = time.monotonic()
        billing.close(0.3)
        closed = time.monotonic()
    # A call that waited for the network would take ten seconds.
    assert longest < 5
    assert 0.2 < flushed - began < 5
    assert closed - flushed < 5
    assert len(contents(tmp_path)) == 500


def test_close_ends_a_flush_of_another_thread(black_hole: str, tmp_path: Path) -> None:
    with hurried(black_hole, tmp_path) as billing:
        billing.enqueue(fact("one"))
        eventually(lambda: inside(billing)._worker)
        waiting = threading.Thread(target=billing.flush, args=[1000])
        waiting.start()
        billing.close(0)
        waiting.join(60)
        assert not waiting.is_alive()


def test_the_end_of_a_process_keeps_its_time(black_hole: str, tmp_path: Path) -> None:
    script = 'billing.enqueue(fact("one"))\nprint(time.monotonic())'
    code, began, err = run(script, black_hole, tmp_path)
    assert (code, err) == (0, "")
    assert time.monotonic() - float(began) < 9  # an answer would have ten seconds
    assert contents(tmp_path) == ["one"]
