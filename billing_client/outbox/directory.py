"""A directory of segments that many processes share.

usage-*.log, waiting-*.log  segments of processes that live, or ended: each has one owner
rejected-YYYYMM.log         records that the service refused, with the reason
delivered/*.log             segments that are sent, named by the time of their last delivery
delivered/removed-*         an empty file, named like the newest segment that is kept no more
service.json                the service whose usage is here, and since when deliveries are kept
.service-*                  a file that is not whole yet, if a kill left it
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from billing_client.batches import Batch
from billing_client.config import Bounds
from billing_client.errors import BillingError, ConfigurationError
from billing_client.outbox.segment import DELIVERED, PENDING, TIME, Row, check_whole, rows_of

logger = logging.getLogger(__name__)

REMOVED = "removed-"
# The clocks of this host and of the one who says when the backup was made may differ.
_MARGIN = timedelta(minutes=10)


class Directory:
    """The files that all processes share; those that wait have ``size`` bytes, as last seen."""

    def __init__(self, path: Path, bounds: Bounds | None = None) -> None:
        self.path = path
        self.kept_path = path / "delivered"
        self.bounds = bounds or Bounds()
        self.size = 0

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
        """Remember the service if there is none; say why nothing may be sent to this one, if so."""
        known = self.service()
        if known is None:
            with suppress(OSError):  # a full disk, which sending frees; the next call tries again
                self.remember(url, datetime.now(UTC))
        if known is None or known[0] == url:
            return None
        return (
            f"The outbox in {self.path} holds usage for {known[0]}, and this client sends to {url}."
            " Correct the URL or the directory; if the service has moved, run: billing-client"
            f" --url URL --outbox {self.path} accept-service"
        )

    def remember(self, url: str, since: datetime) -> None:
        """Write which service the directory is for. Raises OSError."""
        new = self.path / f".service-{os.getpid()}"
        new.touch(mode=0o600)
        new.write_text(json.dumps({"service": url, "since": since.isoformat()}))
        new.replace(self.path / "service.json")

    # Delivered usage

    def kept(self) -> list[Path]:
        """The files of delivered usage, the oldest delivery first."""
        return sorted(self.kept_path.glob("*.log"))

    def covered_since(self) -> datetime:
        """The earliest instant since which all delivered usage is kept, in UTC."""
        known, removed = self.service(), self.removed_until()
        since = known[1] if known else datetime.now(UTC)
        return max(since, removed) if removed else since

    def removed_until(self) -> datetime | None:
        """The last delivery that may be lost; None if nothing was removed."""
        removed = [path.name.split("-")[1] for path in self.kept_path.glob(f"{REMOVED}*")]
        return datetime.strptime(max(removed), TIME).replace(tzinfo=UTC) if removed else None

    def delivered(self, since: datetime) -> Iterator[Batch]:
        """The delivered records of all files that were delivered from ten minutes before on."""
        batch = Batch()
        # First those that are still written to: one that is put aside meanwhile is found below.
        for files in (self.segments, self.kept):
            for path in files():
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime >= (since - _MARGIN).timestamp():
                        for row in rows_of(path, DELIVERED):
                            if not row.record:
                                logger.warning("outbox: %s has a damaged line", path)
                                continue
                            batch.add(row.request_id, row.record)
                            if batch.is_full():
                                yield batch
                                batch = Batch()
        if len(batch):
            yield batch

    def prune(self) -> None:
        """Remove files older than ``keep_days``, and the oldest beyond the bytes to keep.

        Also looks how much all processes have on disk.
        """
        keep_from = datetime.now(UTC) - timedelta(days=self.bounds.keep_days)
        self.size = size_of([*self.path.glob("rejected-*.log"), *self.segments()])
        most = min(self.bounds.keep_bytes, self.bounds.size - self.size)
        kept = self.kept()
        size = size_of(kept)
        for path in kept:
            if size <= most and path.name >= keep_from.strftime(TIME):
                break
            size -= size_of([path])
            self.forget(path)
        for path in sorted(self.kept_path.glob(f"{REMOVED}*"))[:-1]:
            path.unlink(missing_ok=True)

    def forget(self, path: Path) -> None:
        """Remove a file of delivered usage."""
        with suppress(FileNotFoundError):  # another process was faster
            # The name stays, to say since when all is kept. A rename needs no space.
            marker = path.with_name(f"{REMOVED}{path.stem}")
            path.rename(marker)
            os.truncate(marker, 0)

    # Refused records

    def reject(self, row: Row, error: BillingError, at: float) -> None:
        """Keep a record that the service refused, and why. Raises OSError.

        ``at`` is when it was refused, in seconds since 1970.
        """
        entry = {
            "request_id": row.request_id,
            "status": error.status_code,
            "code": error.code,
            "problem": str(error),
            "rejected_at": at,
            "at": row.at,
            "stamped": row.stamped,
            "usage": row.record.decode(),
        }
        self.keep_rejected(entry, PENDING)

    def keep_rejected(self, entry: dict[str, Any], outcome: bytes) -> None:
        """Write an entry as reject() makes it. Raises OSError.

        The first byte of its line is the outcome: PENDING while it is refused, MOVED once it is
        settled. One write: many processes may append.
        """
        path = self.path / time.strftime("rejected-%Y%m.log", time.gmtime())
        line = b"\n%b%b\n" % (outcome, json.dumps(entry).encode()[1:])
        with open(path, "ab", buffering=0, opener=partial(os.open, mode=0o600)) as file:
            check_whole(file.write(line), len(line))


def usable(directory: str | os.PathLike[str]) -> Path:
    """The directory, made for this user alone if it is not there. Raises ConfigurationError."""
    path = expanded(directory)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path / "delivered").mkdir(mode=0o700, exist_ok=True)
        if os.access(path, os.R_OK | os.W_OK | os.X_OK):
            return path
        error = "it is not writable"
    except OSError as failure:
        error = str(failure)
    raise ConfigurationError(
        f"The outbox directory {path} cannot be used: {error}; expected a local directory that"
        " this user may write to."
    )


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
    return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def size_of(files: Iterable[Path]) -> int:
    """The bytes of disk that the files take."""
    size = 0
    for path in files:
        with suppress(OSError):  # removed meanwhile
            found = path.stat()
            size += max(found.st_size, found.st_blocks * 512)
    return size
