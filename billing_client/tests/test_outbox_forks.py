"""The steps of a fork and of an end, one by one; real ones are in test_outbox_processes.py."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from billing_client import OutboxError
from billing_client.outbox import forks
from billing_client.outbox.names import files
from billing_client.outbox.store import Closed, Store
from billing_client.testing import FakeBillingClient
from billing_client.tests.faulty import Exchange, FaultyServer, honest
from billing_client.tests.outboxes import (
    NOBODY,
    contents,
    drained,
    eventually,
    fact,
    hurried,
    inside,
)


def test_a_parent_goes_on_with_a_new_file(server: FaultyServer, tmp_path: Path) -> None:
    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("before"))
        forks._before()
        forks._in_parent()
        billing.enqueue(fact("after"))
        assert billing.stats().pending == 2
        assert len(files(tmp_path)) == 2
    assert drained(tmp_path, server) == {"before", "after"}


@pytest.mark.usefixtures("no_thread")
def test_a_child_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("before"))
        forks._before()
        monkeypatch.setattr("os.getpid", lambda: 4_000_000)
        forks._in_child()
        assert billing.stats().pending == 0
        billing.enqueue(fact("child"))
        assert billing.stats().pending == 1
    assert contents(tmp_path) == ["before", "child"]


@pytest.mark.usefixtures("no_thread")
def test_a_child_of_a_fork_in_c_leaks_its_parents_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaked: list[sqlite3.Connection] = []
    monkeypatch.setattr(forks, "leak", leaked.append)
    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("parent"))
        with monkeypatch.context() as child:
            child.setattr("os.getpid", lambda: 4_000_000)
            assert billing.stats().pending == 0
            billing.close(0)
    assert len(leaked) == 1
    assert len(files(tmp_path)) == 1
    leaked[0].close()  # here there is no parent whose file it would destroy
    assert contents(tmp_path) == ["parent"]


@pytest.mark.usefixtures("no_thread")
def test_threads_of_a_child_begin_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one is still on its way when another has begun."""
    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("parent"))
        outbox = billing._outbox
        assert outbox is not None
        with monkeypatch.context() as child:
            leaked: list[sqlite3.Connection] = []
            child.setattr(forks, "leak", leaked.append)
            child.setattr("os.getpid", lambda: 4_000_000)
            billing.enqueue(fact("child"))
            begun = inside(billing)
            assert outbox._begun(4_000_000) is begun
            assert billing.stats().pending == 1
            billing.close(0)
    assert len(leaked) == 1
    leaked[0].close()  # as above
    assert contents(tmp_path) == ["child", "parent"]


def test_two_threads_may_fork_at_once(tmp_path: Path) -> None:
    """Each lets go of what it held, whoever came or went in between."""

    def fork() -> None:
        forks._before()  # which waits for the other's fork to be over
        forks._in_parent()

    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("one"))
        forks._before()
        with hurried(NOBODY, tmp_path) as another:
            thread = threading.Thread(target=fork)
            thread.start()
            eventually(lambda: len(forks._forking) == 2)
            forks._in_parent()
            thread.join(20)
            another.enqueue(fact("two"))
    assert forks._forking == {}
    assert contents(tmp_path) == ["one", "two"]


def test_a_fork_in_the_middle_of_a_dead_process_s_file_goes_on_with_it(
    server: FaultyServer, tmp_path: Path
) -> None:
    def forking(exchange: Exchange) -> None:
        forks._before()
        forks._in_parent()
        honest(exchange)

    with hurried(NOBODY, tmp_path) as died:
        for n in range(600):
            died.enqueue(fact(f"n{n}"))
    server.script.append(forking)
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("mine"))
        eventually(lambda: billing.flush(20).pending == 0)
    assert len(server.service.stored) == 601
    assert files(tmp_path) == []


def test_a_second_drainer_ends_at_once(server: FaultyServer, tmp_path: Path) -> None:
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("one"))
        _, drainer = inside(billing)
        eventually(drainer._running.locked)
        drainer._run()  # it would go on until close()
        assert drainer._running.locked()


def test_an_interrupted_start_is_made_up_for(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with hurried(server.url, tmp_path) as billing:
        with monkeypatch.context() as ctrl_c:
            ctrl_c.setattr("_thread.start_new_thread", interrupted)
            with pytest.raises(KeyboardInterrupt):
                billing.enqueue(fact("one"))
        assert billing.flush(20).sent == 1


def test_after_the_end_it_still_goes_to_disk(tmp_path: Path, server: FaultyServer) -> None:
    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("before"))
        assert billing._outbox is not None
        billing._outbox.close(0, at_exit=True)
        billing.enqueue(fact("finalizer"))
        forks.forget(billing._outbox)
    assert contents(tmp_path) == ["before", "finalizer"]


def test_a_file_closed_again_and_again_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object, **__: object) -> None:
        raise Closed

    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("one"))
        with monkeypatch.context() as busy:
            busy.setattr(Store, "append", closed)
            with pytest.raises(OutboxError, match="again and again"):
                billing.enqueue(fact("two"))
    assert contents(tmp_path) == ["one"]


def test_a_system_without_another_thread_leaves_it_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", none)
    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("one"))
    assert contents(tmp_path) == ["one"]


def test_fsync_is_a_setting_of_the_file(tmp_path: Path) -> None:
    store = Store.create(tmp_path, fsync=True)
    assert store.execute("PRAGMA synchronous") == [(2,)]
    store.close()


def test_the_fake_can_be_paused(tmp_path: Path) -> None:
    with FakeBillingClient(outbox="memory") as billing:
        billing.paused_reason = "The key was rotated."
        billing.enqueue(fact("one"))
        assert billing.flush().paused_reason == "The key was rotated."
        assert billing.stats().pending == 1
        billing.paused_reason = None
        billing.flush()
        assert [usage.request_id for usage in billing.recorded] == ["one"]
