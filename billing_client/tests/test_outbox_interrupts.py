"""Signal handlers and finalizers come between any two steps of their own thread."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from billing_client import BillingClient, ConfigurationError
from billing_client.outbox import drainer, forks, store
from billing_client.outbox.names import files
from billing_client.tests.faulty import FaultyServer, refuse
from billing_client.tests.outboxes import (
    NOBODY,
    contents,
    drained,
    eventually,
    fact,
    hurried,
    inside,
    run,
)


class Meddled:
    """A connection that lets something happen, once, just before or after a statement."""

    def __init__(self, connection: sqlite3.Connection, at: str, act: Callable[[], object]) -> None:
        self._connection = connection
        self._moment, _, self._statement = at.partition(" ")
        self._acts = [act]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *values: Any) -> Any:
        return self._run(self._connection.execute, sql, *values)

    def executemany(self, sql: str, *values: Any) -> Any:
        return self._run(self._connection.executemany, sql, *values)

    def _run(self, call: Callable[..., Any], sql: str, *values: Any) -> Any:
        acts = self._acts if sql.startswith(self._statement) else []
        if self._moment == "before" and acts:
            acts.pop()()
        result = call(sql, *values)
        if self._moment == "after" and acts:
            acts.pop()()
        return result


def meddle(billing: BillingClient, at: str, act: Callable[[], object]) -> None:
    """Let it happen at a moment of this client's work in its file."""
    (source,) = inside(billing)[0].own
    assert source.store._connection is not None
    meddled = Meddled(source.store._connection, at, act)
    source.store._connection = cast(sqlite3.Connection, meddled)


def forked() -> None:
    forks._before()
    forks._in_parent()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drainer does nothing until it is told to flush."""
    monkeypatch.setattr(drainer, "LINGER_SECONDS", 60.0)


WRITING = ["before INSERT", "after INSERT"]
SETTLING = [
    f"{when} {what}" for when in ("before", "after") for what in ("BEGIN", "DELETE", "COMM")
]


@pytest.mark.parametrize("at", WRITING)
def test_enqueue_in_the_middle_of_another_goes_to_another_file(
    server: FaultyServer, tmp_path: Path, at: str
) -> None:
    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("first"))
        meddle(billing, at, lambda: billing.enqueue(fact("inner")))
        billing.enqueue(fact("outer"))
        assert billing.stats().pending == 3
        assert len(files(tmp_path)) == 2
    assert drained(tmp_path, server) == {"first", "outer", "inner"}


@pytest.mark.parametrize("at", WRITING)
def test_a_fork_in_the_middle_of_enqueue_loses_nothing(
    server: FaultyServer, tmp_path: Path, at: str
) -> None:
    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("first"))
        meddle(billing, at, forked)
        billing.enqueue(fact("outer"))
        billing.enqueue(fact("after"))
        assert billing.stats().pending == 3
    assert drained(tmp_path, server) == {"first", "outer", "after"}


@pytest.mark.usefixtures("no_thread")
def test_the_child_of_a_fork_in_the_middle_of_enqueue_writes_to_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back into the interrupted call, as its parent does."""

    def forked_off() -> float:
        monkeypatch.setattr(store, "time", time)
        forks._before()
        monkeypatch.setattr("os.getpid", lambda: 4_000_000)
        forks._in_child()
        return time.time()

    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("parent"))
        monkeypatch.setattr(store, "time", SimpleNamespace(time=forked_off))
        billing.enqueue(fact("child"))
        assert [one.store.path.name.split("-")[2] for one in inside(billing)[0].own] == ["4000000"]
        assert billing.stats().pending == 1
    assert contents(tmp_path) == ["child", "parent"]


@pytest.mark.parametrize("at", WRITING)
def test_what_is_enqueued_while_a_handler_closes_is_on_disk(tmp_path: Path, at: str) -> None:
    """And the file is given up, though the handler could not do it."""
    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("first"))
        meddle(billing, at, lambda: billing.close(0))
        billing.enqueue(fact("outer"))
        with pytest.raises(ConfigurationError, match="closed"):
            billing.enqueue(fact("after"))
        assert contents(tmp_path) == ["first", "outer"]


@pytest.mark.usefixtures("calm")
@pytest.mark.parametrize("at", SETTLING)
@pytest.mark.parametrize("act", ["enqueue", "fork", "close"])
def test_what_interrupts_the_drainer_loses_nothing(
    server: FaultyServer, tmp_path: Path, at: str, act: str
) -> None:
    """A finalizer runs in whatever thread happens to free its object."""
    with hurried(server.url, tmp_path) as billing:
        acts: dict[str, Callable[[], object]] = {
            "enqueue": lambda: billing.enqueue(fact("inner")),
            "fork": forked,
            "close": lambda: billing.close(0),
        }
        billing.enqueue(fact("first"))
        meddle(billing, at, acts[act])
        billing.flush(20)
        if act == "close":
            eventually(lambda: not inside(billing)[0].own)
    assert drained(tmp_path, server) == {"first"} | ({"inner"} if act == "enqueue" else set())


@pytest.mark.usefixtures("calm")
def test_what_interrupts_a_transaction_that_fails_is_not_rolled_back(
    server: FaultyServer, tmp_path: Path
) -> None:
    def enqueue_and_fail() -> None:
        billing.enqueue(fact("inner"))
        raise sqlite3.OperationalError("database or disk is full")

    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("first"))
        meddle(billing, "after DELETE", enqueue_and_fail)
        billing.flush(20)
        assert billing.stats().pending == 0
    assert set(server.service.stored) == {"first", "inner"}
    assert files(tmp_path) == []


@pytest.fixture
def uncounted(server: FaultyServer, tmp_path: Path) -> Iterator[BillingClient]:
    """A client after Ctrl-C between a record's being written and its being counted."""
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("first"))
        billing.flush(20)
        server.script.extend([refuse(503, "service_unavailable")] * 1000)
        meddle(billing, "after INSERT", interrupt)
        with pytest.raises(KeyboardInterrupt):
            billing.enqueue(fact("uncounted"))
        yield billing


def test_no_file_is_removed_by_what_was_counted(uncounted: BillingClient, tmp_path: Path) -> None:
    uncounted.close(0)
    assert contents(tmp_path) == ["uncounted"]


def test_what_was_not_counted_is_sent_and_counted_again(
    uncounted: BillingClient, server: FaultyServer
) -> None:
    server.script.clear()
    uncounted.flush(20)
    assert set(server.service.stored) == {"first", "uncounted"}
    server.script.extend([refuse(503, "service_unavailable")] * 1000)
    uncounted.enqueue(fact("second"))
    assert uncounted.stats().pending == 1


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


@pytest.mark.parametrize("alive", [False, True])
def test_enqueue_may_interrupt_itself(server: FaultyServer, tmp_path: Path, alive: bool) -> None:
    code, out, err = run(INTERRUPTED, server.url if alive else NOBODY, tmp_path)
    assert (code, err) == (0, "")
    signals, made = map(int, out.split())
    names = {f"signal:{n}" for n in range(signals)}
    names |= {f"{kind}:{n}" for kind in ("n", "del") for n in range(made)}
    assert drained(tmp_path, server) == names


STORM = """
import random
def handler(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
chance = random.Random(3)
billing.enqueue(fact("n0"))  # to make a file takes longer than the signals let it
done, hits = 1, 0
while done < 1000:
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.002))
        while done < 1000:
            billing.enqueue(fact(f"n{done}"))
            done += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        hits += 1
print(hits)
if sys.argv[3] == "alive":
    flushed = billing.flush(30)
    assert flushed.pending == 0, flushed
billing.close(0)
"""


@pytest.mark.parametrize("alive", [False, True])
def test_enqueue_may_be_interrupted_again_and_again(
    server: FaultyServer, tmp_path: Path, alive: bool
) -> None:
    url, how = (server.url, "alive") if alive else (NOBODY, "dead")
    code, out, err = run(STORM, url, tmp_path, how)
    assert (code, err) == (0, "")
    assert int(out) > 10
    assert drained(tmp_path, server) == {f"n{n}" for n in range(1000)}
