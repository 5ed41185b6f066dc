"""The files of ended processes are sent by the next live one, and no other file is touched."""

from __future__ import annotations

import errno
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from billing_client import BillingClient, Event
from billing_client.outbox import outbox as outbox_module
from billing_client.outbox import segment
from billing_client.outbox.commands import refused
from billing_client.outbox.segment import HEADER, Segment
from billing_client.tests.faulty import FaultyServer, refuse
from billing_client.tests.outboxes import (
    NO_SERVICE,
    SOAK,
    contents,
    drained,
    eventually,
    fact,
    facts,
    hurried,
    inside,
    kept,
    leave,
    orphan,
    rejected,
    run,
    segments,
    start,
    times_sent,
)

ORPHANS = 40


@pytest.mark.live  # starts processes
def test_four_adopters_send_each_record_of_forty_orphans_once(
    server: FaultyServer, tmp_path: Path
) -> None:
    for n in range(ORPHANS):
        orphan(tmp_path, *[f"{n}:{k}" for k in range(20)])
    # With time to note the answer to a request that is under way at the end.
    script = "billing.flush(30); billing.close(30)"
    adopters = [start(script, server.url, tmp_path) for _ in range(4)]
    assert [adopter.communicate(timeout=60) for adopter in adopters] == [("", "")] * 4
    drained(tmp_path, server)
    assert times_sent(server) == {f"{n}:{k}": 1 for n in range(ORPHANS) for k in range(20)}


ADOPT = """
from pathlib import Path
from billing_client.outbox.directory import Directory
from billing_client.outbox.segment import Segment
while True:
    for path in Directory(Path(sys.argv[2])).segments():
        Segment.adopt(path)
"""


@pytest.mark.live  # starts processes
def test_no_live_file_is_touched(server: FaultyServer, tmp_path: Path) -> None:
    """Files are made, written, sent and given up beside two adopters that never rest."""
    adopters = [start(ADOPT, NO_SERVICE, tmp_path) for _ in range(2)]
    names = set()
    try:
        for n in range(200 if SOAK else 30):
            with hurried(server.url if n % 2 else NO_SERVICE, tmp_path) as billing:
                for k in range(20):
                    names.add(f"{n}:{k}")
                    billing.enqueue(fact(f"{n}:{k}"))
                assert all(segment.path.exists() for segment in inside(billing).here().own)
    finally:
        for adopter in adopters:
            adopter.kill()
        outcomes = [adopter.communicate() for adopter in adopters]
    assert outcomes == [("", "")] * 2
    assert drained(tmp_path, server) == names


@pytest.mark.live  # starts processes
def test_a_live_file_is_locked_for_this_process_and_others(
    away: BillingClient, tmp_path: Path
) -> None:
    away.enqueue(fact("one"))
    (path,) = segments(tmp_path)
    assert Segment.adopt(path) is None
    script = f"""
from pathlib import Path
from billing_client.outbox.segment import Segment
sys.exit(9 if Segment.adopt(Path({str(path)!r})) is None else 0)
"""
    assert run(script, NO_SERVICE, tmp_path)[0] == 9
    leave(away)
    assert Segment.adopt(path) is not None


@pytest.mark.parametrize("act", ["unlink", "rename"])
def test_a_file_that_another_process_takes_before_it_is_locked_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """Also one that was only just made."""
    lock = segment.lock

    def late(number: int) -> bool:
        monkeypatch.undo()
        (path,) = segments(tmp_path)
        path.rename(tmp_path / "elsewhere") if act == "rename" else path.unlink()
        return lock(number)

    path = orphan(tmp_path, "one")
    monkeypatch.setattr(segment, "lock", late)
    assert Segment.adopt(path) is None
    monkeypatch.setattr(segment, "lock", late)
    assert Segment.create(tmp_path, "usage").path.exists()


@pytest.mark.parametrize("kind", ["usage", "waiting"])
def test_the_form_of_a_file_is_for_ever(server: FaultyServer, tmp_path: Path, kind: str) -> None:
    """A new version of the library finds the files that an older one left."""
    line = b'%b"at":1795000000.125,"stamped":true,"usage":%b}\n'
    names = {"sent": b"+", "moved": b"-", "one": b"{", "two": b"{"}
    lines = [line % (first, fact(name).to_json()) for name, first in names.items()]
    path = tmp_path / f"{kind}-20261122T100000Z-17-0123456789ab.log"
    path.write_bytes(b'{"billing_outbox":1}\n\n' + b"\n".join(lines))
    assert drained(tmp_path, server) == {"one", "two"}


# Files that are damaged


@pytest.mark.parametrize("written", [b"", HEADER[:5], HEADER])
def test_a_file_of_a_process_that_died_at_once_is_removed(
    server: FaultyServer, tmp_path: Path, written: bytes
) -> None:
    orphan(tmp_path, "one").write_bytes(written)
    assert drained(tmp_path, server) == set()
    assert (kept(tmp_path), segments(tmp_path)) == ([], [])


@pytest.mark.parametrize("torn", [b"", b'\n{"at', b'\n{"at":17.1,"stamped":true,"usage":{"req'])
@pytest.mark.parametrize("then", [b"", b"\n"])
def test_a_torn_line_is_not_a_record(
    server: FaultyServer, tmp_path: Path, torn: bytes, then: bytes
) -> None:
    path = orphan(tmp_path, "one", "two")
    path.write_bytes(path.read_bytes() + torn + then)
    assert drained(tmp_path, server) == {"one", "two"}
    assert rejected(tmp_path) == []


def test_a_damaged_line_is_kept_as_rejected_and_the_others_are_sent(
    server: FaultyServer, tmp_path: Path
) -> None:
    path = orphan(tmp_path, "one", "two", "three")
    path.write_bytes(path.read_bytes().replace(b'"request_id":"two"', b'"request_\xff\x00:"two"'))
    assert drained(tmp_path, server) == {"one", "three"}
    assert rejected(tmp_path) == ["?"]


@pytest.mark.parametrize("size", [segment.MOST_BYTES, 2 * segment.MOST_BYTES + 7])
def test_a_line_that_is_too_long_holds_no_other_back(
    server: FaultyServer, tmp_path: Path, size: int
) -> None:
    """Such as zeros after a power failure; what is left before and after them says whose it was."""
    path = orphan(tmp_path, "one", "two", "three")
    before, between, after = path.read_bytes().partition(b'"request_id":"two"')
    path.write_bytes(before + b"\0" * size + between + after)
    assert contents(tmp_path) == ["?", "one", "three"]
    assert drained(tmp_path, server) == {"one", "three"}
    ((_, _, entry),) = refused(tmp_path)
    assert entry["code"] == "damaged_line"
    assert '"customer_id":123' in entry["problem"]
    assert '"request_id":"two"' in entry["problem"]
    assert len(entry["problem"]) < 2000
    assert kept(tmp_path) == ["one", "three"]


@pytest.mark.parametrize("outcome", [b"-", b"+"])
def test_a_line_that_is_too_long_has_its_outcome_in_place(
    server: FaultyServer, tmp_path: Path, outcome: bytes
) -> None:
    path = orphan(tmp_path, "one")
    zeros = outcome + b"\0" * segment.MOST_BYTES
    path.write_bytes(path.read_bytes() + b"\n" + zeros + b"\n")
    assert drained(tmp_path, server) == {"one"}
    assert rejected(tmp_path) == []
    with hurried(server.url, tmp_path) as billing:
        assert billing.resend(datetime.now(UTC) - timedelta(hours=1), timeout=60).sent == 1


def test_a_long_line_without_its_end_is_not_a_record_yet(
    away: BillingClient, server: FaultyServer, tmp_path: Path
) -> None:
    away.enqueue(fact("one"))
    (path,) = segments(tmp_path)
    with path.open("ab") as file:
        file.write(b"\0" * segment.MOST_BYTES)
    assert contents(tmp_path) == ["one"]
    leave(away)
    assert drained(tmp_path, server) == {"one"}
    assert rejected(tmp_path) == []


@pytest.mark.parametrize(
    "content",
    [
        b"not an outbox at all" * 1000,
        b'{"billing_outbox":99}\n',
    ],
)
def test_files_that_are_no_outbox_are_left_alone_and_reported_once(
    server: FaultyServer, tmp_path: Path, content: bytes
) -> None:
    path = orphan(tmp_path, "lost")
    path.write_bytes(content)
    for name in ("mine.log", "usage.txt", "usage-1.sqlite3.bak"):  # never opened
        (tmp_path / name).touch(0)
    orphan(tmp_path, "good")
    events: list[Event] = []
    with hurried(server.url, tmp_path, on_event=events.append) as billing:
        billing.flush(20)
        billing.flush(20)
    (report,) = (event for event in events if event.kind == "unusable_file")
    assert f"{path.name} is left alone: it " in report.reason
    assert path.read_bytes() == content
    assert list(server.service.stored) == ["good"]
    assert len(list(tmp_path.glob("*.*"))) == 5  # and service.json


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
def test_a_file_that_cannot_be_opened_now_is_looked_at_again(
    outbox: BillingClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A moment without a free descriptor, or a file of root's before its chown."""
    path = orphan(tmp_path, "one")
    opening = os.open

    def refusing(name: Any, *arguments: Any) -> int:
        if name == path:
            raise OSError(number, os.strerror(number))
        return opening(name, *arguments)

    monkeypatch.setattr(os, "open", refusing)
    assert outbox.flush(20).sent == 0
    monkeypatch.undo()
    assert outbox.flush(20).sent == 1


# When it happens


def test_orphans_are_looked_for_now_and_then(
    outbox: BillingClient, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "RESCAN_SECONDS", 0.01)
    outbox.enqueue(fact("mine"))
    orphan(tmp_path, "late")
    eventually(lambda: len(server.service.stored) == 2)


def test_flush_waits_for_the_service_also_with_an_orphan(
    outbox: BillingClient, server: FaultyServer, tmp_path: Path
) -> None:
    server.script.extend([refuse(503, "service_unavailable")] * 3)
    orphan(tmp_path, "one")
    assert outbox.flush(20).sent == 1


@pytest.mark.usefixtures("no_thread")
def test_enqueue_never_opens_an_orphan(
    away: BillingClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(30):
        orphan(tmp_path, f"n{n}")
    with monkeypatch.context() as none:
        none.setattr(Segment, "adopt", None)
        none.setattr("billing_client.outbox.directory.Directory.segments", None)
        away.enqueue(fact("mine"))
    assert len(contents(tmp_path)) == 31


def test_a_segment_that_is_large_or_old_is_put_aside_once_it_is_sent(
    outbox: BillingClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 600)
    for usage in facts(9):  # of some 190 bytes each
        outbox.enqueue(usage)
    age = segment.SEGMENT_SECONDS + 1
    monkeypatch.setattr(segment, "monotonic", lambda: time.monotonic() + age)
    outbox.enqueue(fact("n9"))
    eventually(lambda: outbox.flush(20).pending == 0 and len(kept(tmp_path)) == 9)
    assert len(segments(tmp_path)) == 1
