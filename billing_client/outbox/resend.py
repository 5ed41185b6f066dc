"""Sends delivered usage once more, to a service that was restored from a backup."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from billing_client.errors import (
    BillingError,
    ConfigurationError,
    RateLimitedError,
    UnavailableError,
)
from billing_client.outbox.delivery import Ask, Missing, Pause, Verdict, deliver
from billing_client.outbox.directory import Directory
from billing_client.outbox.schedule import MOST_RECORDS, Pace
from billing_client.outbox.segment import DELIVERED, MOST_BYTES, TIME, Row, Segment, parsed

# The clocks of this host and of the one who says when the backup was made may differ.
MARGIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Resent:
    """What resend() did.

    sent           records that were sent once more and that the service has now
    created        those of them that it had lost
    refused        the ids that it refused; create their customers and resend again
    covered_since  the earliest instant since which this host keeps all that it delivered, in UTC
    complete       whether that is early enough: False if something since then was removed
    """

    sent: int
    created: int
    refused: tuple[str, ...]
    covered_since: datetime
    complete: bool


def resend(
    directory: Directory,
    ask: Ask,
    since: datetime,
    timeout: float,
    on_progress: Callable[[int], object] | None,
) -> Resent:
    """Send all segments with a delivery since then; see BillingClient.resend."""
    if since.utcoffset() is None:
        raise ConfigurationError("since has no time zone; give one, such as 2026-11-22T10:00Z.")
    created, sent = 0, 0
    refused: list[str] = []
    ends = time.monotonic() + timeout
    for rows in _batches(directory, since - MARGIN):
        for verdict in _verdicts(ask, rows, ends):
            if verdict.fate == "delivered":
                sent += 1
                created += verdict.created
            else:
                refused.append(verdict.row.request_id)
        if on_progress is not None:
            on_progress(sent)
    removed = directory.removed_until()
    return Resent(
        sent,
        created,
        tuple(dict.fromkeys(refused)),
        covered_since(directory),
        complete=removed is None or removed <= since,
    )


def covered_since(directory: Directory) -> datetime:
    """The earliest instant since which all delivered usage is kept, in UTC."""
    known, removed = directory.service(), directory.removed_until()
    since = known[1] if known else datetime.now(UTC)
    return max(since, removed) if removed else since


def _batches(directory: Directory, since: datetime) -> Iterator[list[Row]]:
    rows: list[Row] = []
    size = 0
    for path in _files(directory, since):
        for row in _delivered(path):
            if rows and (len(rows) == MOST_RECORDS or size + len(row.record) > MOST_BYTES):
                yield rows
                rows, size = [], 0
            rows.append(row)
            size += len(row.record)
    if rows:
        yield rows


def _files(directory: Directory, since: datetime) -> Iterator[Path]:
    # First those that are still written to: one that is put aside meanwhile is found below.
    for path in directory.segments():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime >= since.timestamp():
                yield path
    oldest = since.astimezone(UTC).strftime(TIME)
    for one in directory.kept():
        if one.delivered >= oldest:
            yield one.path


def _delivered(path: Path) -> Iterator[Row]:
    source = Segment(path, None)
    with suppress(FileNotFoundError):
        for line in path.read_bytes().split(b"\n"):
            if line.startswith(DELIVERED):
                yield Row(source, 0, line, *parsed(line))


def _verdicts(ask: Ask, rows: list[Row], ends: float) -> Iterator[Verdict]:
    """Verdicts on all rows, however often it takes. Raises BillingError."""
    pace = Pace()
    while True:
        try:
            for verdicts in deliver(ask, rows, pace.too_large):
                yield from verdicts
                judged = {verdict.row.request_id for verdict in verdicts}
                rows = [row for row in rows if row.request_id not in judged]
        except Pause as pause:
            raise ConfigurationError(str(pause)) from pause
        except (UnavailableError, RateLimitedError, Missing) as error:
            seconds = pace.failed(error.retry_after if isinstance(error, BillingError) else None)
            if time.monotonic() + seconds > ends:
                raise UnavailableError(
                    f"Not all was sent again: {error} Run it once more; what arrived is replayed."
                ) from error
            time.sleep(seconds)
        else:
            return
