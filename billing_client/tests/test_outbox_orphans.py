"""The files of dead processes are drained by the next live one, others never touched."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from billing_client import Event
from billing_client.outbox import orphans
from billing_client.outbox.names import files
from billing_client.outbox.source import Source
from billing_client.outbox.store import Busy, Gone, Store
from billing_client.tests.faulty import FaultyServer
from billing_client.tests.outboxes import (
    NOBODY,
    SOAK,
    contents,
    drained,
    eventually,
    fact,
    hurried,
    inside,
    orphan,
    run,
    sent_ids,
    start,
)

ORPHANS = 40


def test_four_adopters_send_each_record_of_forty_orphans_once(
    server: FaultyServer, tmp_path: Path
) -> None:
    for n in range(ORPHANS):
        orphan(tmp_path, *[f"{n}:{k}" for k in range(20)])
    script = "billing.flush(30); billing.close(0)"
    adopters = [start(script, server.url, tmp_path) for _ in range(4)]
    assert [adopter.communicate(timeout=60) for adopter in adopters] == [("", "")] * 4
    drained(tmp_path, server)
    sent = Counter(name for seen in server.seen for name in sent_ids(seen.body))
    assert sent == {f"{n}:{k}": 1 for n in range(ORPHANS) for k in range(20)}


ADOPT = """
from pathlib import Path
from billing_client.outbox.names import files
from billing_client.outbox.store import Busy, Gone, Store, Unfit
while True:
    for path in files(Path(sys.argv[2])):
        try:
            Store.adopt(path).close()
        except (Busy, Gone, Unfit):
            pass
"""


def test_no_live_file_is_touched(server: FaultyServer, tmp_path: Path) -> None:
    """Files are made, written, sent and given up beside two adopters that never rest."""
    adopters = [start(ADOPT, NOBODY, tmp_path) for _ in range(2)]
    names = set()
    try:
        for n in range(200 if SOAK else 30):
            with hurried(server.url if n % 2 else NOBODY, tmp_path) as billing:
                for k in range(20):
                    names.add(f"{n}:{k}")
                    billing.enqueue(fact(f"{n}:{k}"))
                assert all(source.store.path.exists() for source in inside(billing)[0].own)
    finally:
        for adopter in adopters:
            adopter.kill()
        outcomes = [adopter.communicate() for adopter in adopters]
    assert outcomes == [("", "")] * 2
    assert drained(tmp_path, server) == names


def test_a_live_file_is_busy_for_others(tmp_path: Path) -> None:
    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("one"))
        (path,) = files(tmp_path)
        with pytest.raises(Busy):
            Store.adopt(path)
        script = f"""
from pathlib import Path
from billing_client.outbox.store import Busy, Store
try:
    Store.adopt(Path({str(path)!r}))
except Busy:
    sys.exit(9)
"""
        assert run(script, NOBODY, tmp_path)[0] == 9
    assert contents(tmp_path) == ["one"]


def test_after_close_no_file_is_taken(server: FaultyServer, tmp_path: Path) -> None:
    with hurried(server.url, tmp_path) as billing:
        billing.close(0)
        orphan(tmp_path, "one")
        assert inside(billing)[1]._take_orphan(urgent=True) == (None, [])
    assert contents(tmp_path) == ["one"]


def test_a_file_that_vanished_is_gone(tmp_path: Path) -> None:
    path = orphan(tmp_path, "one")
    path.unlink()
    with pytest.raises(Gone):
        Store.adopt(path)
    assert not path.exists()


def test_a_file_removed_between_opening_and_locking_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = orphan(tmp_path, "one")
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(Gone):
        Store.adopt(path)


def test_a_new_file_that_an_adopter_took_for_an_empty_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([False])
    monkeypatch.setattr(Path, "exists", lambda self: next(looks, True))
    store = Store.create(tmp_path)
    assert len(files(tmp_path)) == 2
    store.close()
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(OSError, match="vanish"):
        Store.create(tmp_path)


def test_a_new_file_that_was_removed_before_it_was_opened_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect: Any = sqlite3.connect
    thieves = iter([Path.unlink])

    def robbed(address: str, **options: Any) -> Any:
        for steal in thieves:
            steal(files(tmp_path)[0])
        return connect(address, **options)

    monkeypatch.setattr(sqlite3, "connect", robbed)
    store = Store.create(tmp_path)
    assert files(tmp_path) == [store.path]
    store.close()


def test_an_empty_file_of_a_process_that_died_at_once_is_removed(tmp_path: Path) -> None:
    path = orphan(tmp_path, "one")
    path.write_bytes(b"")
    with pytest.raises(Gone):
        Store.adopt(path)
    assert files(tmp_path) == []


def test_a_log_whose_file_was_removed_is_swept(server: FaultyServer, tmp_path: Path) -> None:
    """Its process died between the two; nobody else's log is touched."""
    gone = orphan(tmp_path, "one")
    gone.unlink()
    stray, other = Path(f"{gone}-wal"), tmp_path / "mine.sqlite3-wal"
    stray.write_bytes(b"log")
    other.write_bytes(b"log")
    with hurried(server.url, tmp_path) as billing:
        billing.flush(20)
    assert (stray.exists(), other.exists()) == (False, True)


def damaged(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 1000)


def foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()


def newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def halved(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))


@pytest.mark.parametrize("spoil", [damaged, foreign, newer, halved])
def test_files_that_are_no_outbox_are_left_alone_and_reported(
    server: FaultyServer, tmp_path: Path, spoil: object
) -> None:
    path = orphan(tmp_path, *[f"lost{n}" for n in range(100)])
    spoil(path)  # type: ignore[operator]
    before = path.read_bytes()
    orphan(tmp_path, "good")
    events: list[Event] = []
    with hurried(server.url, tmp_path, on_event=events.append) as billing:
        billing.flush(20)
        billing.flush(20)
    reports = [event for event in events if event.kind == "unusable_file"]
    assert len(reports) == 1
    assert path.name in reports[0].reason
    assert path.read_bytes() == before
    assert list(server.service.stored) == ["good"]


def test_other_peoples_names_are_never_opened(server: FaultyServer, tmp_path: Path) -> None:
    other = tmp_path / "mine.sqlite3"
    other.write_bytes(b"")
    events: list[Event] = []
    with hurried(server.url, tmp_path, on_event=events.append) as billing:
        billing.flush(20)
    assert [event.kind for event in events] == ["unusable_file"]
    assert other.exists()


def test_an_own_file_that_is_damaged_is_put_aside(server: FaultyServer, tmp_path: Path) -> None:
    """Whoever notices; then it is looked at as any other file is."""
    with hurried(NOBODY, tmp_path) as billing:
        own = inside(billing)[0].own
        billing.enqueue(fact("one"))
        spoil(own[0], "append")
        billing.enqueue(fact("two"))
        assert len(files(tmp_path)) == 2
        spoil(own[0], "take")
        billing.flush(0)
        eventually(lambda: not own)
        assert billing.stats().pending == 2
    assert drained(tmp_path, server) == {"one", "two"}


def spoil(source: Source, name: str) -> None:
    """Let its file be found damaged."""

    def malformed(*_: object, **__: object) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    setattr(source.store, name, malformed)


def test_rejected_records_stay_and_are_not_opened_again(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = orphan(tmp_path, "one", "one")
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO rejected SELECT *, 0, 400, 'x', 'y' FROM usage")
    connection.execute("DELETE FROM usage")
    connection.commit()
    connection.close()
    with hurried(server.url, tmp_path) as billing:
        billing.flush(20)
        adopt = Store.adopt
        opened: list[Path] = []

        def noted(path: Path) -> Store:
            opened.append(path)
            return adopt(path)

        monkeypatch.setattr(Store, "adopt", noted)
        billing.flush(20)
    assert opened == []
    assert contents(tmp_path, "rejected") == ["one", "one"]


def test_orphans_are_looked_for_now_and_then(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "RESCAN_SECONDS", 0.0)
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("mine"))
        billing.flush(20)
        orphan(tmp_path, "late")
        billing.enqueue(fact("again"))
        billing.flush(20)
    assert set(server.service.stored) == {"mine", "late", "again"}
