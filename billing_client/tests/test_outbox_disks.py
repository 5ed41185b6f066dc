"""Directories that cannot be used and disks that are full: nothing is dropped silently."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine

from billing_client import ConfigurationError, OutboxError, OutboxFull
from billing_client.config import Bounds
from billing_client.outbox.directory import Directory
from billing_client.outbox.segment import DELIVERED, parsed
from billing_client.tests.faulty import FaultyServer, reply
from billing_client.tests.outboxes import (
    NO_SERVICE,
    contents,
    drained,
    eventually,
    fact,
    hurried,
    inside,
    orphan,
    rejected,
    run,
    sent_ids,
)


def test_a_directory_that_cannot_be_used_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigurationError, match=r"file.* cannot be used"),
        hurried(NO_SERVICE, tmp_path / "file"),
    ):
        pass


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


def filled(directory: Path) -> set[str]:
    """Enqueue without a service until the disk is full."""
    names: set[str] = set()
    with hurried(NO_SERVICE, directory) as billing:
        with pytest.raises(OutboxFull, match="free space"):  # noqa: PT012 - which call it is, is the disk's
            for n in range(10_000):
                billing.enqueue(fact(f"n{n}"))
                names.add(f"n{n}")
        assert billing.stats().pending == len(names)
    return names


LIMITED = """
import resource
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300 * 1024, most))
for n in range(10_000):
    try:
        billing.enqueue(fact(f"n{n}"))
    except OutboxFull:
        break
    print(f"n{n}", flush=True)
billing.close(0)
"""


@pytest.mark.live  # starts processes
@pytest.mark.parametrize("alive", [False, True])
def test_a_limit_on_the_size_of_files_drops_nothing(
    server: FaultyServer, tmp_path: Path, alive: bool
) -> None:
    """As a quota and a full disk do it, for every user and also where none can be mounted."""
    code, out, err = run(LIMITED, server.url if alive else NO_SERVICE, tmp_path)
    assert (code, err) == (0, "")
    names = set(out.split())
    assert len(names) > 50
    assert drained(tmp_path, server) == names


def test_a_full_disk_drops_nothing_and_is_drained(server: FaultyServer, small_disk: Path) -> None:
    names = filled(small_disk)
    assert len(names) > 50
    assert drained(small_disk, server) == names


def test_a_full_disk_is_drained_while_enqueueing_goes_on(
    server: FaultyServer, small_disk: Path
) -> None:
    names: set[str] = set()
    refusals = 0
    with hurried(server.url, small_disk) as billing:
        (small_disk / "filler").write_bytes(b"x" * 200 * 1024)
        for n in range(3000):
            try:
                billing.enqueue(fact(f"n{n}"))
                names.add(f"n{n}")
            except OutboxFull:
                refusals += 1
        billing.flush(20)
        stats = billing.stats()
        assert stats.sent + stats.rejected + stats.pending == len(names)
    sent = Counter(name for seen in server.seen for name in sent_ids(seen.body))
    assert max(sent.values()) <= 3  # no hot loop
    assert drained(small_disk, server) == names


def test_an_outcome_that_cannot_be_kept_is_not_asked_for_again(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    error = {"code": "validation_error", "detail": "It is wrong."}
    answer = {"results": [{"status": 400, "request_id": "bad", "error": error}]}
    server.script.append(reply(207, answer))
    with hurried(server.url, tmp_path) as billing:
        with monkeypatch.context() as disk:
            disk.setattr(Directory, "reject", full)
            billing.enqueue(fact("bad"))
            billing.flush(20)
            assert "free space" in (billing.stats().last_error or "")
            billing.enqueue(fact("good"))
            eventually(lambda: billing.flush(20).pending == 1)
        assert contents(tmp_path) == ["bad"]
        billing.flush(20)
    sent = Counter(name for seen in server.seen for name in sent_ids(seen.body))
    assert sent == {"bad": 1, "good": 1}
    assert (contents(tmp_path), rejected(tmp_path)) == ([], ["bad"])


def test_a_read_only_directory_keeps_what_it_holds(server: FaultyServer, small_disk: Path) -> None:
    path = orphan(small_disk, "one")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(ConfigurationError, match="cannot be used"), hurried(NO_SERVICE, small_disk):
        pass
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert path.exists()
    assert drained(small_disk, server) == {"one"}


# Delivered usage is kept, but never at the price of waiting usage


def kept(directory: Path) -> list[str]:
    """The ids in the files of delivered usage, the oldest first."""
    lines = [
        line for file in Directory(directory).kept() for line in file.read_bytes().split(b"\n")
    ]
    return [parsed(line)[3] for line in lines if line.startswith(DELIVERED)]


def deliver(directory: Path, server: FaultyServer, name: str, **options: int) -> None:
    with hurried(server.url, directory, **options) as billing:
        billing.enqueue(fact(name))
        assert billing.flush(20).pending == 0


def test_what_was_delivered_is_kept_for_forty_days(server: FaultyServer, tmp_path: Path) -> None:
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
    Directory(tmp_path, Bounds(keep_bytes=2 * 4096)).prune(())
    assert kept(tmp_path) == ["n2", "n3"]
    assert Directory(tmp_path).removed_until() == today + timedelta(seconds=1)


def test_what_was_delivered_goes_before_the_outbox_is_full(
    server: FaultyServer, tmp_path: Path
) -> None:
    deliver(tmp_path, server, "delivered")
    with hurried(NO_SERVICE, tmp_path, outbox_max_bytes=600) as billing:
        for n in range(3):
            billing.enqueue(fact(f"n{n}"))
        with pytest.raises(OutboxFull):
            billing.enqueue(fact("n3"))
        assert kept(tmp_path) == []
    assert contents(tmp_path) == ["n0", "n1", "n2"]


def test_what_was_delivered_goes_before_a_disk_is_full(
    server: FaultyServer, small_disk: Path
) -> None:
    names: set[str] = set()
    with hurried(server.url, small_disk) as billing:
        while len(names) < 3000:  # of which the disk takes a third at once
            with contextlib.suppress(OutboxFull):
                billing.enqueue(fact(f"n{len(names)}"))
                names.add(f"n{len(names)}")
    assert drained(small_disk, server) == names


def test_the_bytes_of_other_processes_count_too(server: FaultyServer, tmp_path: Path) -> None:
    with hurried(NO_SERVICE, tmp_path) as other:
        for n in range(3):
            other.enqueue(fact(f"n{n}"))
        with hurried(NO_SERVICE, tmp_path, outbox_max_bytes=4096 + 100) as billing:
            billing.flush(0)
            eventually(lambda: inside(billing)._directory.others_size > 0)
            with pytest.raises(OutboxFull):
                billing.enqueue(fact("n3"))
    assert drained(tmp_path, server) == {"n0", "n1", "n2"}


def test_a_disk_error_is_not_a_full_outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with hurried(NO_SERVICE, tmp_path) as billing:
        monkeypatch.setattr("billing_client.outbox.segment.os.write", broken)
        with pytest.raises(OutboxError, match="Input/output error") as raised:
            billing.enqueue(fact("one"))
        monkeypatch.undo()
    assert not isinstance(raised.value, OutboxFull)


def test_a_write_that_the_disk_cut_spoils_no_other(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def cut(number: int, data: bytes) -> int:
        monkeypatch.setattr("os.write", write)
        return write(number, data[:-9])

    with hurried(NO_SERVICE, tmp_path) as billing:
        billing.enqueue(fact("before"))
        monkeypatch.setattr("os.write", cut)
        with pytest.raises(OutboxFull, match="only a part"):
            billing.enqueue(fact("cut"))
        billing.enqueue(fact("after"))
    assert drained(tmp_path, server) == {"before", "after"}
    assert rejected(tmp_path) == []
