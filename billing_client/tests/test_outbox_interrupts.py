"""Signal handlers and finalizers come between any two steps of their own thread."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from billing_client import BillingClient, ConfigurationError, Event
from billing_client.outbox import outbox as outbox_module
from billing_client.tests.faulty import FaultyServer
from billing_client.tests.outboxes import (
    NO_SERVICE,
    contents,
    drained,
    eventually,
    fact,
    hurried,
    inside,
    run,
    segments,
)


def meddle(monkeypatch: pytest.MonkeyPatch, at: str, act: Callable[[], object]) -> None:
    """Let something happen, once, just before or after a write to a segment."""
    when, call = at.split()
    original: Callable[..., int] = getattr(os, call)

    def meddled(*arguments: Any) -> int:
        monkeypatch.setattr(os, call, original)
        if when == "before":
            act()
        written = original(*arguments)
        if when == "after":
            act()
        return written

    monkeypatch.setattr(os, call, meddled)


def forked() -> None:
    """What a fork does in the parent and in the child, which comes back from it too."""
    if (child := os.fork()) == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def interrupt() -> None:
    raise KeyboardInterrupt


ACTS: dict[str, Callable[[BillingClient], object]] = {
    "enqueue": lambda billing: billing.enqueue(fact("inner")),
    "fork": lambda billing: forked(),
    "close": lambda billing: billing.close(0),
}


@pytest.mark.parametrize("at", ["before write", "after write", "before pwrite", "after pwrite"])
@pytest.mark.parametrize("name", ACTS)
def test_an_interrupt_of_enqueue_or_the_thread_loses_nothing(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, name: str
) -> None:
    """A finalizer runs in whatever thread happens to free its object."""
    in_thread = at.endswith("pwrite")
    # The thread does nothing until it is told to flush.
    monkeypatch.setattr(outbox_module, "LINGER_SECONDS", 60.0)
    with hurried(server.url if in_thread else NO_SERVICE, tmp_path) as billing:
        billing.enqueue(fact("first"))
        meddle(monkeypatch, at, lambda: ACTS[name](billing))
        if in_thread:
            billing.flush(20)
        else:
            billing.enqueue(fact("outer"))
        if name == "close":
            assert inside(billing).here().own == []
            with pytest.raises(ConfigurationError, match="closed"):
                billing.enqueue(fact("after"))
    expected = {"first"} | (set() if in_thread else {"outer"})
    assert drained(tmp_path, server) == expected | ({"inner"} if name == "enqueue" else set())


def test_a_file_that_is_written_to_is_not_put_aside(
    outbox: BillingClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.enqueue(fact("sent"))
    outbox.flush(20)
    meddle(monkeypatch, "before write", lambda: outbox.close(0))
    outbox.enqueue(fact("outer"))
    assert contents(tmp_path) == ["outer"]


@pytest.mark.live  # starts processes
def test_the_child_of_a_fork_in_the_middle_of_enqueue_writes_to_its_own_file(
    server: FaultyServer, tmp_path: Path
) -> None:
    """It comes back into the interrupted call, as its parent does."""
    script = """
write = os.write
def forking(number, data):
    os.write = write
    children.append(os.fork())
    return write(number, data)
children = []
billing.enqueue(fact("first"))
os.write = forking
billing.enqueue(fact("both"))
if children[0]:
    os.waitpid(children[0], 0)
os._exit(0)
"""
    assert run(script, NO_SERVICE, tmp_path) == (0, "", "")
    assert contents(tmp_path) == ["both", "both", "first"]
    assert len(segments(tmp_path)) == 2
    assert drained(tmp_path, server) == {"first", "both"}


def test_ctrl_c_between_a_record_and_its_count_loses_nothing(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hurried(NO_SERVICE, tmp_path) as billing:
        for name in ("no-file-yet", "uncounted"):
            meddle(monkeypatch, "after write", interrupt)
            with pytest.raises(KeyboardInterrupt):
                billing.enqueue(fact(name))
            billing.enqueue(fact(f"after-{name}"))
    assert drained(tmp_path, server) == {"after-no-file-yet", "uncounted", "after-uncounted"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("can't start new thread")])
def test_a_thread_that_does_not_start_is_made_up_for(
    outbox: BillingClient,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException] | BaseException,
) -> None:
    """By a later call, or by flush itself."""

    def fails(*_: object) -> None:
        raise error

    with monkeypatch.context() as ctrl_c:
        ctrl_c.setattr(outbox_module, "start_new_thread", fails)
        with contextlib.suppress(KeyboardInterrupt):
            outbox.enqueue(fact("one"))
        with contextlib.suppress(KeyboardInterrupt):
            assert outbox.flush(20).sent == 1  # in this thread
    outbox.enqueue(fact("two"))
    eventually(lambda: outbox.stats().sent == 2)


def test_flush_without_a_thread_of_its_own_ends_when_all_is_sent(
    outbox: BillingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the exit of Python 3.12 no thread can be started, and the outbox's own one sends."""

    def fails(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    outbox.enqueue(fact("one"))
    monkeypatch.setattr(outbox_module, "start_new_thread", fails)
    assert outbox.flush(None).pending == 0


@pytest.mark.parametrize("call", ["flush", "close"])
def test_the_threads_own_calls_do_not_wait_for_it(
    server: FaultyServer, tmp_path: Path, call: str
) -> None:
    """A finalizer or on_event calls in the thread itself."""
    events: list[str] = []

    def on_event(event: Event) -> None:
        events.append(event.kind)
        getattr(billing, call)(None)

    with hurried(server.url, tmp_path, on_event=on_event) as billing:
        billing.enqueue(fact("one"))
        eventually(lambda: events == ["sent"])
    assert list(server.service.stored) == ["one"]


INTERRUPTED = """
import gc
signals = []
def handler(*_):
    name = f"signal:{len(signals)}"
    signals.append(name)
    billing.enqueue(fact(name))
    # Not at intervals: on a busy machine handlers would interrupt handlers without an end.
    signal.setitimer(signal.ITIMER_REAL, 0.003)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.003)
class Cycle:
    def __init__(self, name):
        self.name, self.me = name, self
    def __del__(self):
        billing.enqueue(fact(self.name))
        deleted.append(self.name)
deleted = []
gc.set_threshold(50)
made = 0
while made < 150 or len(signals) < 3:
    Cycle(f"del:{made}")
    billing.enqueue(fact(f"n:{made}"))
    made += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
# Not gc.collect(): it does nothing while another thread collects, as the drainer's may.
while len(deleted) < made:
    gc.collect()
    time.sleep(0.001)
print(len(signals), made)
billing.close(0)
"""


STORM = """
import random
def handler(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
chance = random.Random(3)
billing.enqueue(fact("n0"))  # to make a file takes longer than the signals let it
done, hits = 1, 0
while hits < 30:
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.002))
        while True:
            billing.enqueue(fact(f"n{done}"))
            done += 1
    except KeyboardInterrupt:
        hits += 1
print(done)
if sys.argv[3] == "alive":
    flushed = billing.flush(30)
    assert flushed.pending == 0, flushed
billing.close(0)
"""


@pytest.mark.live  # starts processes
@pytest.mark.parametrize("alive", [False, True])
def test_enqueue_may_interrupt_itself(server: FaultyServer, tmp_path: Path, alive: bool) -> None:
    code, out, err = run(INTERRUPTED, server.url if alive else NO_SERVICE, tmp_path)
    assert (code, err) == (0, "")
    signals, made = map(int, out.split())
    names = {f"signal:{n}" for n in range(signals)}
    names |= {f"{kind}:{n}" for kind in ("n", "del") for n in range(made)}
    assert drained(tmp_path, server) == names


@pytest.mark.live  # starts processes
@pytest.mark.parametrize("alive", [False, True])
def test_enqueue_may_be_interrupted_again_and_again(
    server: FaultyServer, tmp_path: Path, alive: bool
) -> None:
    url, how = (server.url, "alive") if alive else (NO_SERVICE, "dead")
    code, out, err = run(STORM, url, tmp_path, how)
    assert (code, err) == (0, "")
    names = {f"n{n}" for n in range(int(out))}
    # The last call may have been interrupted before or after its record was on disk.
    assert names <= drained(tmp_path, server) <= names | {f"n{int(out)}"}
