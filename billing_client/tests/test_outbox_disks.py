"""Directories that cannot be used and disks that are full: nothing is dropped silently."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing_client import ConfigurationError, OutboxFull
from billing_client.outbox import store as store_module
from billing_client.outbox.names import files
from billing_client.tests.faulty import FaultyServer
from billing_client.tests.outboxes import (
    NOBODY,
    contents,
    drained,
    fact,
    hurried,
    orphan,
    run,
    sent_ids,
)


def test_a_directory_that_cannot_be_used_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigurationError, match=r"file.* cannot be used"),
        hurried(NOBODY, tmp_path / "file"),
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
    with hurried(NOBODY, directory) as billing:
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


@pytest.mark.parametrize("alive", [False, True])
def test_a_limit_on_the_size_of_files_drops_nothing(
    server: FaultyServer, tmp_path: Path, alive: bool
) -> None:
    """As a quota and a full disk do it, for every user and also where nobody may mount one."""
    code, out, err = run(LIMITED, server.url if alive else NOBODY, tmp_path)
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


def test_what_cannot_be_deleted_is_not_sent_again(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with hurried(server.url, tmp_path) as billing:
        with monkeypatch.context() as disk:
            disk.setattr(store_module, "_apply", full)
            for n in range(1200):
                billing.enqueue(fact(f"n{n}"))
            assert billing.flush(20).pending == 0
            assert "free space" in (billing.stats().last_error or "") or not files(tmp_path)
        billing.enqueue(fact("after"))
        assert billing.flush(20).pending == 0
    sent = Counter(name for seen in server.seen for name in sent_ids(seen.body))
    assert set(sent.values()) == {1}
    assert len(sent) == 1201
    assert files(tmp_path) == []


def test_a_read_only_directory_keeps_what_it_holds(server: FaultyServer, small_disk: Path) -> None:
    path = orphan(small_disk, "one")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(ConfigurationError, match="cannot be used"), hurried(NOBODY, small_disk):
        pass
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert path.exists()
    assert drained(small_disk, server) == {"one"}


def test_the_log_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing_client.outbox.store.MOST_CHANGES", 200)
    with hurried(NOBODY, tmp_path) as billing:
        for n in range(2000):
            billing.enqueue(fact(f"n{n}"))
        (path,) = files(tmp_path)
        assert Path(f"{path}-wal").stat().st_size < 2_000_000
    assert len(contents(tmp_path)) == 2000
