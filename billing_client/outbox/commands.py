"""The commands over an outbox directory. All may be used while other processes use it too."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from billing_client.client import BillingClient
from billing_client.config import KEEP_DAYS, endpoint_of
from billing_client.errors import ConfigurationError, some
from billing_client.outbox.directory import Directory, expanded, size_of
from billing_client.outbox.doctor import examine
from billing_client.outbox.events import OutboxWarning
from billing_client.outbox.segment import (
    DELIVERED,
    MOVED,
    PENDING,
    Segment,
    line_of,
    lock,
    rows_of,
)
from billing_client.outbox.sqlite_files import left_over

_STATES = ("usage", "waiting", "rejected", "delivered")
_LEFT, _UNREAD, _REFUSED = 1, 2, 3
# How often drain says how far it is.
SAY_SECONDS = 1.0


def add_commands(commands: Any) -> None:
    """Add the sub-commands to those of ``billing-client``."""
    parsers = {}
    for name, command, text in (
        ("status", _status, "waiting and refused records, and since when deliveries are kept"),
        ("drain", _drain, "send what waits; exit 1 if some is left, 3 if some was refused"),
        ("rejected", _rejected, "the records that the service refused, and why"),
        ("requeue", _requeue, "let rejected records be sent again"),
        ("discard", _discard, "give rejected records up"),
        ("resend", _resend, "send delivered records once more, after a restore of the service"),
        ("accept-service", _accept_service, "let what waits be sent to another service"),
        ("export", _export, "the records as lines of JSON, which the command send reads"),
        ("doctor", _doctor, "check URL, key, clock, disk and directory"),
    ):
        parsers[name] = commands.add_parser(name, help=text)
        parsers[name].set_defaults(run=_in_directory, command=command)
    for name in ("requeue", "discard"):
        which = parsers[name].add_mutually_exclusive_group(required=True)
        which.add_argument("ids", metavar="ID", nargs="*", default=[])
        which.add_argument("--code", help="all that were refused with this code")
    parsers["discard"].add_argument("--reason", required=True, help="kept with the records")
    parsers["drain"].add_argument("--timeout", type=float, default=300.0, metavar="SECONDS")
    parsers["resend"].add_argument("--timeout", type=float, metavar="SECONDS")
    parsers["resend"].add_argument(
        "--since",
        type=_instant,
        required=True,
        metavar="T",
        help="a time of delivery on this host, such as 2026-11-22T10:00Z",
    )
    parsers["export"].add_argument(
        "--state", choices=_STATES, action="append", help="all but delivered if not given"
    )


def _in_directory(options: argparse.Namespace, out: TextIO) -> int:
    directory = options.outbox or os.environ.get("BILLING_OUTBOX_DIR")
    if not directory:
        raise ConfigurationError("There is no outbox; pass --outbox DIR or set BILLING_OUTBOX_DIR.")
    path = expanded(directory)
    if not path.is_dir():
        raise ConfigurationError(
            f"There is no directory {path}; expected one that a client has used as its outbox."
        )
    return int(options.command(path, options, out))


def _instant(text: str) -> datetime:
    why = "expected an instant such as 2026-11-22T10:00Z"
    with suppress(ValueError):
        instant = datetime.fromisoformat(text)
        if instant.utcoffset() is not None:
            return instant
        why = "it has no offset from UTC; expected one such as 2026-11-22T10:00Z"
    raise argparse.ArgumentTypeError(f"{text!r} is not an instant: {why}")


# The contents of a directory


class _Found(NamedTuple):
    """What waits in a segment; ``oldest`` is when it was enqueued, in seconds since 1970."""

    name: str
    pending: int
    oldest: float | None
    customers: set[int]
    in_use: bool  # by a running process


def _waiting(directory: Path, unread: list[Path], out: TextIO) -> Iterator[_Found]:
    """What waits in each segment, also while its owner lives."""
    for path in Directory(directory).segments():
        pending, oldest, customers = 0, None, set()
        try:
            for row in rows_of(path, PENDING):
                pending += 1
                if row.record:  # not damaged
                    oldest = min(oldest or row.at, row.at)
                    customers.add(row.customer_id)
            with path.open("rb") as file:
                in_use = not lock(file.fileno())
        except FileNotFoundError:
            continue  # put aside meanwhile
        except OSError as error:
            unread.append(path)
            _say(out, f"{path.name}: cannot be read ({error})")
            continue
        yield _Found(path.name, pending, oldest, customers, in_use)


def _status(path: Path, options: argparse.Namespace, out: TextIO) -> int:
    directory = Directory(path)
    unread: list[Path] = []
    total = 0
    for found in _waiting(path, unread, out):
        total += found.pending
        what, age = "to send", ""
        if found.name.startswith("waiting-") and found.customers:
            customers = some(tuple(sorted(found.customers)))
            what = f"waiting for a clock or for the customers {customers}"
        if found.oldest:
            age = f", the oldest for {max(0.0, time.time() - found.oldest):.0f} s"
        owner = ", in use by a running process" if found.in_use else ""
        _say(out, f"{found.name}: {found.pending} {what}{age}{owner}")
    for file in left_over(path):
        unread.append(file)
        _say(out, f"{file.name}: of version 1, not counted; drain or the next client takes it over")
    rejected = len(list(refused(path)))
    known = directory.service()
    if known is not None:
        kept = directory.kept()
        _say(
            out,
            f"The service is {known[0]}. Usage delivered to it since"
            f" {directory.covered_since():%Y-%m-%dT%H:%M:%SZ} is kept"
            f" ({len(kept)} files, {size_of(kept) / 1024**2:.1f} MiB).",
        )
        with suppress(ConfigurationError):  # no URL is needed here
            if refusal := directory.claim(endpoint_of(options.url)):
                _say(out, f"Paused: {refusal}")
    _say(out, f"{total} records wait, {rejected} are rejected")
    return _UNREAD if unread else int(total + rejected > 0)


# Sending


def _drain(path: Path, options: argparse.Namespace, out: TextIO) -> int:
    ends = time.monotonic() + options.timeout
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutboxWarning)  # said below
        with BillingClient(options.url, outbox=path) as billing:
            while True:
                began = time.monotonic()
                seconds = min(SAY_SECONDS, max(0.0, ends - began))
                flushed = billing.flush(seconds)
                # Otherwise a request may be under way whose answer takes longer than that.
                has_ended = time.monotonic() < began + seconds
                stats = billing.stats()
                left = sum(found.pending for found in _waiting(path, [], out))
                _say(out, f"{stats.sent} sent, {stats.rejected} rejected, {left} to send")
                if flushed.paused_reason is not None:
                    _say(out, f"Paused: {flushed.paused_reason}")
                    return _LEFT
                idle = flushed.sent + flushed.rejected == 0
                if idle and has_ended and stats.last_error is None:
                    break
                if time.monotonic() >= ends:
                    if not left:
                        break
                    _say(out, f"Not all was sent: {stats.last_error or 'the time is over'}")
                    return _LEFT
    return _outcome(path, stats.waiting_for, out)


def _outcome(path: Path, waiting_for: tuple[int, ...], out: TextIO) -> int:
    """Say why records are left."""
    unread: list[Path] = []
    waiting = list(_waiting(path, unread, out))
    in_use = sum(found.pending for found in waiting if found.in_use)
    if waiting_for:
        _say(out, f"Create the customers {some(waiting_for)}: records wait for them.")
    if in_use:
        _say(out, f"{in_use} records are in files of running processes, which send them.")
    if unread or left_over(path):
        return _UNREAD
    if any(found.pending for found in waiting):
        return _LEFT
    rejected = len(list(refused(path)))
    if rejected:
        _say(out, f"{rejected} records were refused: see rejected, then requeue or discard them.")
    return _REFUSED if rejected else 0


def _resend(path: Path, options: argparse.Namespace, out: TextIO) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutboxWarning)  # waiting records are not resent
        with BillingClient(options.url, outbox=path) as billing:
            resent = billing.resend(
                options.since,
                timeout=options.timeout,
                on_progress=lambda sent: _say(out, f"{sent} sent again"),
            )
    _say(
        out,
        f"{resent.sent} records were sent again; the service had lost {resent.created} of them."
        f" This host keeps its deliveries since {resent.covered_since:%Y-%m-%dT%H:%M:%SZ}.",
    )
    if resent.refused:
        _say(
            out,
            f"{len(resent.refused)} were refused ({some(resent.refused)}): create their customers,"
            " then resend again.",
        )
    if not resent.complete:
        _say(
            out,
            f"The usage delivered between {options.since.isoformat()} and then was removed: look"
            " for it in your own data, and send it under its ids.",
        )
    return int(bool(resent.refused) or not resent.complete)


def _accept_service(path: Path, options: argparse.Namespace, out: TextIO) -> int:
    url = endpoint_of(options.url)
    directory = Directory(path)
    known = directory.service()
    (path / "service.json").unlink(missing_ok=True)  # on a full disk the new one takes its place
    directory.remember(url, known[1] if known else datetime.now(UTC))
    _say(out, f"What waits in {path} is sent to {url} from now on.")
    return 0


# Refused records


def refused(directory: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """File, place and content of each record that is refused, the oldest first. Raises OSError."""
    for path in sorted(directory.glob("rejected-*.log")):
        offset = 0
        for line in path.read_bytes().split(b"\n"):
            if line.startswith(PENDING):
                with suppress(ValueError):  # cut by a full disk: it stayed in its segment
                    yield path, offset, json.loads(line)
            offset += len(line) + 1


def _rejected(path: Path, _: argparse.Namespace, out: TextIO) -> int:
    entries = [one for _, _, one in refused(path)]
    for one in entries:
        _say(out, f"{one['request_id']}\t{one['status']}\t{one['code'] or '-'}\t{one['problem']}")
    for file in left_over(path):
        _say(out, f"{file.name}: of version 1, not read; drain or the next client takes it over")
    return _UNREAD if left_over(path) else int(bool(entries))


def _wanted(path: Path, options: argparse.Namespace) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    for file, offset, one in refused(path):
        if one["request_id"] in options.ids or (options.code and one["code"] == options.code):
            yield file, offset, one


def _settle(file: Path, offset: int) -> None:
    """Mark a refused record in place: it was enqueued again, or given up."""
    with file.open("r+b", buffering=0) as opened:
        os.pwrite(opened.fileno(), MOVED, offset)


def _tidy(directory: Path) -> None:
    """Remove the files of months that are long over and of which no record is refused any more."""
    keep_from = time.time() - KEEP_DAYS * 24 * 3600
    needed = {file for file, _, _ in refused(directory)}
    for file in directory.glob("rejected-*.log"):
        if file not in needed and file.stat().st_mtime < keep_from:
            file.unlink()


def _requeue(path: Path, options: argparse.Namespace, out: TextIO) -> int:
    moved = damaged = 0
    segment = Segment.create(path, "usage")
    for file, offset, one in _wanted(path, options):
        if not one["usage"]:  # its problem has all that is left of it
            damaged += 1
            continue
        segment.append(line_of(one["usage"].encode(), stamped=one["stamped"], at=time.time()))
        _settle(file, offset)
        moved += 1
    if not moved:
        segment.path.unlink()
    _tidy(path)
    _say(out, f"{moved} records will be sent again")
    if damaged:
        _say(
            out,
            f"{damaged} damaged lines cannot be sent again: see rejected for their remains,"
            " report the usage from your own data, then discard them.",
        )
    return int(moved == 0 or damaged > 0)


def _discard(path: Path, options: argparse.Namespace, out: TextIO) -> int:
    moved = 0
    for file, offset, one in list(_wanted(path, options)):
        # Written with its reason first, as settled from the start.
        Directory(path).keep_rejected({**one, "discarded": options.reason}, MOVED)
        _settle(file, offset)
        moved += 1
    _tidy(path)
    _say(out, f"{moved} records were discarded: {options.reason}")
    return int(moved == 0)


# The rest


def _export(path: Path, options: argparse.Namespace, out: TextIO) -> int:
    states = options.state or _STATES[:3]
    directory = Directory(path)
    files = [file for file in directory.segments() if file.name.partition("-")[0] in states]
    for file in files:
        _export_lines(file, PENDING, out)
    if "rejected" in states:
        for file, _, one in refused(path):
            _export_one(file, one["usage"], out)
    if "delivered" in states:
        for file in (*directory.segments(), *directory.kept()):
            _export_lines(file, DELIVERED, out)
    return 0


def _export_lines(file: Path, outcome: bytes, out: TextIO) -> None:
    with suppress(FileNotFoundError):  # put aside meanwhile
        for row in rows_of(file, outcome):
            _export_one(file, row.record.decode(), out)


def _export_one(file: Path, record: str, out: TextIO) -> None:
    if record:
        _say(out, record)
    else:
        _say(sys.stderr, f"{file.name}: left out a damaged line")


def _doctor(path: Path, options: argparse.Namespace, out: TextIO) -> int:
    faults = 0
    for is_fine, text in examine(path, options.url):
        faults += not is_fine
        _say(out, f"{'ok  ' if is_fine else 'FIX '} {text}")
    return int(faults > 0)


def _say(out: TextIO, text: str) -> None:
    out.write(text + "\n")
    out.flush()
