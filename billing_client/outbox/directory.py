"""A directory of segments that many processes share.

usage-*.log, waiting-*.log  segments of processes that live, or ended: each has one owner
rejected-YYYYMM.log         records that the service refused, with the reason
delivered/*.log             segments that are sent, named by the time of their last delivery
delivered/removed-*         an empty file, named like the newest segment that is kept no more
service.json                the service whose usage is here, and since when deliveries are kept
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from billing_client.config import KEEP_BYTES, KEEP_DAYS
from billing_client.errors import ConfigurationError
from billing_client.outbox.segment import PENDING, TIME, write

logger = logging.getLogger(__name__)

_REMOVED = "removed-"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Kept(NamedTuple):
    """A file of delivered usage, and the bytes of disk that it takes."""

    delivered: str
    path: Path
    size: int


class Directory:
    """The files that all processes of the directory share."""

    def __init__(
        self, path: Path, keep_days: float = KEEP_DAYS, keep_bytes: int = KEEP_BYTES
    ) -> None:
        self.path = path
        self.kept_path = path / "delivered"
        self.keep_bytes = keep_bytes
        self.kept_size = 0
        self.others_size = 0
        self._keep_days = keep_days

    def segments(self) -> list[Path]:
        """The segments of all processes, the oldest first. Raises OSError."""
        found = (*self.path.glob("usage-*.log"), *self.path.glob("waiting-*.log"))
        return sorted(found, key=lambda path: path.name.partition("-")[2])

    # The service

    def service(self) -> tuple[str, datetime] | None:
        """The service whose usage is here, and since when deliveries are kept; None if new."""
        try:
            content = json.loads((self.path / "service.json").read_text())
            return content["service"], datetime.fromisoformat(content["since"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # or power was lost before it was on disk

    def claim(self, url: str) -> str | None:
        """Remember the service if the directory is new.

        Returns a sentence that says why nothing may be sent to it, None if all is well.
        """
        known = self.service()
        if known is None:
            with suppress(OSError):  # a full disk, which sending frees; the next call tries again
                now = datetime.now(UTC)
                if any(self.path.glob("usage-*.sqlite3")):
                    # Version 1 of this library kept no delivered usage.
                    (self.kept_path / f"{_REMOVED}{now.strftime(TIME)}-version-1").touch()
                self.remember(url, now)
            known = self.service()
        if known is None or known[0] == url:
            return None
        return (
            f"The outbox in {self.path} holds usage for {known[0]}, and this client sends to {url}."
            " Correct the URL or the directory; if the service has moved, run: billing-client"
            f" --url URL --outbox {self.path} accept-service"
        )

    def remember(self, url: str, since: datetime) -> None:
        """Write which service the directory is for, unless it says so already."""
        temporary = self.path / f".service-{os.getpid()}-{os.urandom(6).hex()}"
        try:
            temporary.write_text(json.dumps({"service": url, "since": since.isoformat()}))
            temporary.chmod(0o600)
            # A link makes it whole or not at all, and only for the first of several processes.
            with suppress(FileExistsError):
                os.link(temporary, self.path / "service.json")
        finally:
            temporary.unlink(missing_ok=True)

    # Delivered usage

    def kept(self) -> list[Kept]:
        """The files of delivered usage, the oldest delivery first."""
        paths = self.kept_path.glob("*.log")
        return sorted(Kept(path.name.partition("-")[0], path, _size(path)) for path in paths)

    def removed_until(self) -> datetime | None:
        """The last delivery that may be lost; None if nothing was removed."""
        removed = [path.name.split("-")[1] for path in self.kept_path.glob(f"{_REMOVED}*")]
        return datetime.strptime(max(removed), TIME).replace(tzinfo=UTC) if removed else None

    def prune(self, own: Collection[Path]) -> None:
        """Remove files older than ``keep_days``, and the oldest beyond ``keep_bytes``.

        Also looks how much other processes have on disk, for the bounds of all together.
        """
        keep_from = datetime.now(UTC) - timedelta(days=self._keep_days)
        kept = self.kept()
        self.kept_size = sum(one.size for one in kept)
        for one in kept:
            if self.kept_size <= self.keep_bytes and one.delivered >= keep_from.strftime(TIME):
                break
            self._remove(one)
        for path in sorted(self.kept_path.glob(f"{_REMOVED}*"))[:-1]:
            path.unlink(missing_ok=True)
        for path in self.path.glob("rejected-*.log"):
            if path.stat().st_mtime < keep_from.timestamp() and not any(self.rejected(path.name)):
                path.unlink()
        others = [path for path in self.segments() if path not in own]
        self.others_size = sum(map(_size, [*others, *self.path.glob("rejected-*.log")]))

    def make_room(self) -> bool:
        """Remove the oldest delivered usage; False if there is none left."""
        kept = self.kept()
        self.kept_size = sum(one.size for one in kept)
        if kept:
            self._remove(kept[0])
        return bool(kept)

    def _remove(self, one: Kept) -> None:
        self.kept_size -= one.size
        with suppress(FileNotFoundError):  # another process was faster
            # The name stays, to say since when all is kept. A rename needs no space.
            marker = one.path.with_name(f"{_REMOVED}{one.path.name}").with_suffix("")
            one.path.rename(marker)
            os.truncate(marker, 0)

    # Refused records

    def reject(self, entry: dict[str, Any], outcome: bytes = PENDING) -> None:
        """Keep a record that the service refused, and why. Raises OSError.

        One write to an O_APPEND descriptor, like that of a segment's record; many processes may
        append. The first byte of a line says whether it is still refused.
        """
        name = time.strftime("rejected-%Y%m.log", time.gmtime())
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        number = os.open(self.path / name, flags, 0o600)
        try:
            write(number, b"\n%b%b\n" % (outcome, json.dumps(entry).encode()[1:]))
        finally:
            os.close(number)

    def rejected(self, files: str = "rejected-*.log") -> Iterator[tuple[Path, int, dict[str, Any]]]:
        """File, place and content of each record that is refused, the oldest first.

        The content has ``request_id``, ``status``, ``code``, ``problem``, ``rejected_at`` and
        ``at`` (seconds since 1970), ``stamped`` and ``usage``, the record as text. Raises OSError.
        """
        for path in sorted(self.path.glob(files)):
            offset = 0
            for line in path.read_bytes().split(b"\n"):
                if line.startswith(PENDING):
                    with suppress(ValueError):  # cut by a full disk: it stayed in its segment
                        yield path, offset, json.loads(line)
                offset += len(line) + 1


def usable(directory: str | os.PathLike[str]) -> Path:
    """The directory, made for this user alone if it is not there. Raises ConfigurationError."""
    path = expanded(directory)
    probe = path / f".probe-{os.getpid()}-{os.urandom(6).hex()}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path / "delivered").mkdir(mode=0o700, exist_ok=True)
        probe.write_bytes(b"1")
    except OSError as error:
        if is_full(error):
            logger.warning("the disk of %s is full; usage that waits there is sent", path)
            return path
        advice = (
            "close what this process has open: one client is enough for a process"
            if error.errno in {errno.EMFILE, errno.ENFILE}
            else "expected a local directory that this user may write to"
        )
        raise ConfigurationError(
            f"The outbox directory {path} cannot be used: {error}; {advice}."
        ) from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return path


def expanded(directory: str | os.PathLike[str]) -> Path:
    """The absolute path, with "~" replaced. Raises ConfigurationError."""
    try:
        return Path(directory).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigurationError(
            f"The outbox directory {directory} cannot be used: {error}; give an absolute path."
        ) from error


def is_full(error: OSError) -> bool:
    """Whether a disk, a quota or a limit on the size of files is full."""
    return error.errno in _NO_SPACE


def _size(path: Path) -> int:
    try:
        found = path.stat()
    except OSError:
        return 0
    return max(found.st_size, found.st_blocks * 512)
