"""Directories that cannot be used and disks that are full: nothing is dropped silently."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine

from billing_client import BillingClient, ConfigurationError, OutboxError, OutboxFull
from billing_client.config import Bounds
from billing_client.outbox.directory import Directory
from billing_client.outbox.segment import DELIVERED, PENDING, Row, Segment, line_of, rows
from billing_client.tests.faulty import FaultyServer, reply
from billing_client.tests.outboxes import (
    NO_SERVICE,
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
    times_sent,
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB; only root can make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("A file system of 300 KiB needs the right to mount one.")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


# As a quota and a full disk do it, for every user and also where none can be mounted.
LIMIT = """
import resource
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300 * 1024, most))
"""
FILL = """
for n in range(10_000):
    try:
        billing.enqueue(fact(f"n{n}"))
    except OutboxFull as full:
        assert "free space" in str(full)
        break
    print(f"n{n}", flush=True)
billing.close(0)
"""


@pytest.mark.no_cover  # other tests measure this code
@pytest.mark.live  # starts processes
@pytest.mark.parametrize("alive", [False, True])
@pytest.mark.parametrize("how", ["limit", "disk"])
def test_a_full_disk_drops_nothing_and_is_drained(
    server: FaultyServer, tmp_path: Path, request: pytest.FixtureRequest, how: str, alive: bool
) -> None:
    disk = request.getfixturevalue("small_disk") if how == "disk" else tmp_path
    script = FILL if how == "disk" else LIMIT + FILL
    code, out, err = run(script, server.url if alive else NO_SERVICE, disk)
    assert (code, err) == (0, "")
    names = set(out.split())
    assert len(names) > 50
    assert drained(disk, server) == names


@pytest.mark.parametrize("filler", [0, 200])
def test_delivered_records_go_before_a_disk_is_full(
    server: FaultyServer, small_disk: Path, filler: int
) -> None:
    """Also while enqueueing goes on, and beside the files of others."""
    (small_disk / "filler").write_bytes(b"x" * filler * 1024)
    names: set[str] = set()
    with hurried(server.url, small_disk) as billing:
        while len(names) < 3000:  # of which the disk takes a third at once
            with contextlib.suppress(OutboxFull):
                billing.enqueue(fact(f"n{len(names)}"))
                names.add(f"n{len(names)}")
        billing.flush(20)
        stats = billing.stats()
        assert stats.sent + stats.rejected + stats.pending == len(names)
    assert max(times_sent(server).values()) <= 3  # no hot loop
    assert drained(small_disk, server) == names


def test_an_outcome_that_cannot_be_kept_is_asked_for_again_and_stops_no_other(
    outbox: BillingClient, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    error = {"code": "validation_error", "detail": "It is wrong."}
    answer = reply(207, {"results": [{"status": 400, "request_id": "bad", "error": error}]})
    with monkeypatch.context() as disk:
        disk.setattr(Directory, "reject", full)
        server.script.append(answer)
        outbox.enqueue(fact("bad"))
        eventually(lambda: "free space" in (outbox.stats().last_error or ""))
        outbox.enqueue(fact("good"))
        eventually(lambda: outbox.stats().sent == 1)
        assert contents(tmp_path) == ["bad"]
    server.script.append(answer)
    eventually(lambda: outbox.flush(20).pending == 0)
    assert times_sent(server) == {"bad": 2, "good": 1}
    assert (contents(tmp_path), rejected(tmp_path)) == ([], ["bad"])


def test_a_directory_that_cannot_be_used_is_named_and_keeps_what_it_holds(
    server: FaultyServer, tmp_path: Path, small_disk: Path
) -> None:
    orphan(small_disk, "one")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    (tmp_path / "file").touch()
    for directory in (small_disk, tmp_path / "file"):
        refusal = pytest.raises(ConfigurationError, match=f"{directory} cannot be used")
        with refusal, hurried(NO_SERVICE, directory):
            pass
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert drained(small_disk, server) == {"one"}


def test_a_write_that_the_disk_refuses_or_cuts_spoils_no_other(
    away: BillingClient, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def cut(number: int, data: bytes) -> int:
        monkeypatch.undo()
        return write(number, data[:-9])

    def broken(*_: object) -> int:
        monkeypatch.undo()
        raise OSError(errno.EIO, "Input/output error")

    away.enqueue(fact("before"))
    monkeypatch.setattr("os.write", cut)
    with pytest.raises(OutboxFull, match="only a part"):
        away.enqueue(fact("cut"))
    monkeypatch.setattr("os.write", broken)
    with pytest.raises(OutboxError, match="Input/output error") as raised:
        away.enqueue(fact("broken"))
    assert not isinstance(raised.value, OutboxFull)
    away.enqueue(fact("after"))
    leave(away)
    assert drained(tmp_path, server) == {"before", "after"}
    assert rejected(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT])
def test_records_that_could_not_be_synced_are_not_sent(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The caller was told that it was not written."""
    fsync = os.fsync

    def broken(number: int) -> None:
        monkeypatch.setattr("os.fsync", fsync)
        raise OSError(code, os.strerror(code))

    with hurried(NO_SERVICE, tmp_path, fsync=True) as billing:
        billing.enqueue(fact("before"))
        monkeypatch.setattr("os.fsync", broken)
        with pytest.raises(OutboxError, match="call again with the same Usage"):
            billing.enqueue(fact("refused"))
        assert (contents(tmp_path), billing.stats().pending) == (["before"], 1)
        billing.enqueue(fact("after"))
        assert billing.stats().pending == 2
    assert drained(tmp_path, server) == {"before", "after"}
    assert rejected(tmp_path) == []


def test_a_write_that_lacks_only_its_newline_is_not_completed_by_the_next(
    away: BillingClient, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def cut(number: int, data: bytes) -> int:
        monkeypatch.undo()
        return write(number, data[:-1])

    away.enqueue(fact("before"))
    monkeypatch.setattr("os.write", cut)
    with pytest.raises(OutboxFull, match="only a part"):
        away.enqueue(fact("cut"))
    away.enqueue(fact("after"))
    assert (contents(tmp_path), away.stats().pending) == (["after", "before"], 2)
    leave(away)
    assert drained(tmp_path, server) == {"before", "after"}


def line(name: str) -> bytes:
    return line_of(fact(name).to_json(), stamped=False, at=1.0)


def test_only_the_line_that_could_not_be_synced_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other threads write before and behind it."""
    segment = Segment.create(tmp_path, "usage")
    lseek = os.lseek

    def place(*how: int) -> int:
        monkeypatch.setattr("os.lseek", lseek)
        before = lseek(*how)
        segment.append(line("before"))
        return before

    def broken(number: int) -> None:
        segment.append(line("behind"))
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.lseek", place)
    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        segment.append(line("refused"), fsync=True)
    assert (contents(tmp_path), segment.pending) == (["before", "behind"], 2)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_record_that_is_sent_while_it_is_taken_back_is_counted_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    segment = Segment.create(tmp_path, "usage")
    segment.append(line("one"))
    sent: list[Row] = []

    def broken(number: int) -> None:
        sent.extend(row for row in rows(number, PENDING) if row.request_id == "two")
        if when == "before":
            segment.mark(sent[0], DELIVERED)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        segment.append(line("two"), fsync=True)
    if when == "after":
        segment.mark(sent[0], DELIVERED)
    assert (contents(tmp_path), segment.pending) == (["one"], 1)


def test_a_record_that_cannot_be_taken_back_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    segment = Segment.create(tmp_path, "usage")
    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", broken)
        disk.setattr("os.pwrite", broken)
        with pytest.raises(OSError, match="Input/output error"):
            segment.append(line("one"), fsync=True)
    assert (contents(tmp_path), segment.pending) == (["one"], 1)


# Delivered usage is kept, but never at the price of waiting usage


def deliver(directory: Path, server: FaultyServer, name: str) -> None:
    with hurried(server.url, directory) as billing:
        billing.enqueue(fact(name))
        eventually(lambda: billing.flush(20).pending == 0)


def test_delivered_records_are_kept_for_forty_days(server: FaultyServer, tmp_path: Path) -> None:
    deliver(tmp_path, server, "old")
    for days, left in ((39, True), (41, False)):
        with time_machine.travel(datetime.now(UTC) + timedelta(days=days)):
            deliver(tmp_path, server, f"n{days}")
            assert ("old" in kept(tmp_path)) == left


def test_the_oldest_is_removed_beyond_the_bytes_to_keep(
    server: FaultyServer, tmp_path: Path
) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for n in range(4):
        deliver(tmp_path, server, f"n{n}")
        newest = Directory(tmp_path).kept()[-1]
        # A second apart, so that their order is known.
        stamp = f"{today:%Y%m%d}T00000{n}Z"
        newest.rename(newest.with_name(stamp + newest.name[len(stamp) :]))
    Directory(tmp_path, Bounds(keep_bytes=2 * 4096)).prune()
    assert kept(tmp_path) == ["n2", "n3"]
    assert Directory(tmp_path).removed_until() == today + timedelta(seconds=1)


def test_delivered_records_go_before_the_outbox_is_full(
    server: FaultyServer, tmp_path: Path
) -> None:
    deliver(tmp_path, server, "delivered")
    with hurried(NO_SERVICE, tmp_path, outbox_max_bytes=600) as billing:
        for usage in facts(3):
            billing.enqueue(usage)
        with pytest.raises(OutboxFull):
            billing.enqueue(fact("n3"))
        assert kept(tmp_path) == []
    assert contents(tmp_path) == ["n0", "n1", "n2"]


def test_delivered_records_are_kept_while_there_is_room(
    server: FaultyServer, tmp_path: Path
) -> None:
    """The size that is counted only grows until the next look at the disk."""
    deliver(tmp_path, server, "delivered")
    with hurried(NO_SERVICE, tmp_path) as billing:
        directory = inside(billing).directory
        directory.size = directory.bounds.size
        billing.enqueue(fact("one"))
        assert directory.size < 100_000
    assert kept(tmp_path) == ["delivered"]


def test_the_bytes_of_other_processes_count_too(away: BillingClient, tmp_path: Path) -> None:
    for usage in facts(3):
        away.enqueue(usage)
    with hurried(NO_SERVICE, tmp_path, outbox_max_bytes=700) as billing:
        inside(billing).directory.prune()
        with pytest.raises(OutboxFull):
            billing.enqueue(fact("n3"))
    assert contents(tmp_path) == ["n0", "n1", "n2"]
