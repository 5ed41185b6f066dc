"""The command line over an outbox directory; files of processes that live are never touched."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from billing_client.client import BillingClient
from billing_client.errors import ConfigurationError
from billing_client.outbox.doctor import examine
from billing_client.outbox.names import files, foreign_files
from billing_client.outbox.store import Busy, Gone, Store, Unfit

_TABLES = ("usage", "waiting", "rejected")
_REJECTED = "SELECT request_id, status, code, problem FROM rejected ORDER BY seq"
_REQUEUE = (
    "INSERT INTO usage SELECT seq, request_id, record, stamped, enqueued_at FROM rejected"
    " WHERE request_id = ? OR code = ?"
)
_FORGET = "DELETE FROM rejected WHERE request_id = ? OR code = ?"


Command = Callable[[Path, argparse.Namespace, TextIO], int]


def add_commands(commands: Any) -> None:
    """Add the sub-commands to those of ``billing-client``."""
    for command, text in (
        (_status, "what waits in each file"),
        (_drain, "send what processes left behind that died"),
        (_rejected, "what the service refused, and why"),
        (_requeue, "let rejected records be sent again"),
        (_export, "every record as a line of JSON"),
        (_doctor, "check URL, key, clock, disk and directory"),
    ):
        one = commands.add_parser(command.__name__.strip("_"), help=text)
        one.set_defaults(run=partial(_in_directory, command))
        if command is _requeue:
            which = one.add_mutually_exclusive_group(required=True)
            which.add_argument("ids", metavar="ID", nargs="*", default=[])
            which.add_argument("--code", help="all that were refused with this code")
        if command is _drain:
            one.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS")


def _in_directory(command: Command, options: argparse.Namespace, out: TextIO) -> int:
    directory = options.outbox or os.environ.get("BILLING_OUTBOX_DIR")
    if not directory:
        raise ConfigurationError("There is no outbox; pass --outbox DIR or set BILLING_OUTBOX_DIR.")
    return command(Path(directory), options, out)


def _status(directory: Path, _: argparse.Namespace, out: TextIO) -> int:
    total = 0
    for path in foreign_files(directory):
        _say(out, f"{path.name}: not an outbox's name, left alone")
    for path in files(directory):
        with _opened(path, out) as store:
            if store is not None:
                oldest = store.oldest()
                total += store.pending + store.rejected
                age = f", the oldest for {time.time() - oldest:.0f} s" if oldest else ""
                _say(
                    out,
                    f"{path.name}: {store.usage} to send, {store.waiting} waiting for a customer"
                    f" or a clock, {store.rejected} rejected{age}",
                )
    _say(out, f"{total} records in files that no process has open")
    return int(total > 0)


def _drain(directory: Path, options: argparse.Namespace, out: TextIO) -> int:
    ends = time.monotonic() + options.timeout
    with BillingClient(options.url, outbox=directory) as billing:
        while True:
            flushed = billing.flush(min(1.0, max(0.0, ends - time.monotonic())))
            stats = billing.stats()
            left, rejected = _left(directory)
            _say(out, f"{stats.sent} sent, {stats.rejected} rejected, {left} to send")
            if flushed.paused_reason is not None:
                _say(out, f"Paused: {flushed.paused_reason}")
                return 1
            idle = flushed.sent + flushed.rejected + flushed.pending == 0
            if (idle and not left) or (idle and stats.last_error is None):
                return int(left + rejected > 0)
            if time.monotonic() >= ends:
                _say(out, f"Not all was sent: {stats.last_error or 'the time is over'}")
                return 1


def _left(directory: Path) -> tuple[int, int]:
    """Records to send, and rejected ones, in files that nobody has open."""
    pending = rejected = 0
    for path in files(directory):
        try:
            store = Store.adopt(path)
        except (Busy, Gone, Unfit):
            continue
        pending += store.pending
        rejected += store.rejected
        store.close()
    return pending, rejected


def _rejected(directory: Path, _: argparse.Namespace, out: TextIO) -> int:
    found = 0
    for path in files(directory):
        with _opened(path, out) as store:
            for name, status, code, problem in store.execute(_REJECTED) if store else ():
                found += 1
                _say(out, f"{name}\t{status}\t{code or '-'}\t{problem}")
    return int(found > 0)


def _requeue(directory: Path, options: argparse.Namespace, out: TextIO) -> int:
    wanted = [(name, None) for name in options.ids] or [(None, options.code)]
    moved = 0
    for path in files(directory):
        with _opened(path, out) as store:
            if store is not None:
                moved += _move_back(store, wanted)
    _say(out, f"{moved} records will be sent again")
    return int(moved == 0)


def _move_back(store: Store, wanted: Sequence[tuple[str | None, str | None]]) -> int:
    before = store.rejected
    store.execute("BEGIN")
    for which in wanted:
        store.execute(_REQUEUE, which)
        store.execute(_FORGET, which)
    store.execute("COMMIT")
    store.recount()
    return before - store.rejected


def _export(directory: Path, _: argparse.Namespace, out: TextIO) -> int:
    for path in files(directory):
        with _opened(path, sys.stderr) as store:
            if store is not None:
                _export_from(store, out)
    return 0


def _export_from(store: Store, out: TextIO) -> None:
    for table in _TABLES:
        for (record,) in store.execute(f"SELECT CAST(record AS TEXT) FROM {table} ORDER BY seq"):  # noqa: S608 - a constant
            content = json.loads(str(record))
            line = {"file": store.path.name, "state": table, "record": content}
            _say(out, json.dumps(line))


def _doctor(directory: Path, options: argparse.Namespace, out: TextIO) -> int:
    faults = 0
    for finding in examine(directory, options.url):
        faults += not finding.fine
        _say(out, f"{'ok  ' if finding.fine else 'FIX '} {finding.text}")
    return int(faults > 0)


@contextmanager
def _opened(path: Path, out: TextIO) -> Iterator[Store | None]:
    try:
        store = Store.adopt(path)
    except Busy:
        size = path.stat().st_size
        _say(out, f"{path.name}: in use by a process that lives ({size} bytes)")
        yield None
        return
    except Gone:
        yield None
        return
    except Unfit as unfit:
        _say(out, f"{path.name}: left alone, {unfit}")
        yield None
        return
    try:
        yield store
    finally:
        store.close()


def _say(out: TextIO, text: str) -> None:
    out.write(text + "\n")
    out.flush()
