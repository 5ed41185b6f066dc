"""``billing-client send``: the usage records of a file."""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from billing_client.client import CONNECTIONS, BillingClient
from billing_client.commands.lines import (
    Layout,
    Line,
    check_template,
    csv_lines,
    ndjson_lines,
    opened,
)
from billing_client.commands.record import time_argument, whole_number
from billing_client.errors import AuthenticationError, BillingError, ConfigurationError
from billing_client.receipts import Receipts
from billing_client.usage import FIELDS, Usage

_SHOWN_PROBLEMS = 20
_BAR_WIDTH = 30
_BAR_SECONDS = 0.2
_DESCRIPTION = """
Send the usage records of a CSV file, or of a file with one JSON object per line.

The columns, or the objects' names, are those of the API: request_id, customer_id, service,
units_consumed, price_per_unit and occurred_at, or as --column says. Ids and times are never made
up: they come from the file, or from --id-from and --occurred-at.

A run that was interrupted, or that had refused lines, is simply run again: lines that are recorded
are not billed twice. The exit status is 0 only if every line is recorded.
"""


def add_commands(commands: Any) -> None:
    """Add ``send``."""
    parser = commands.add_parser(
        "send",
        help="send the usage records of a file",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="- for standard input")
    parser.add_argument("--format", choices=("csv", "ndjson"), help="by the file's ending, or csv")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        type=_mapping,
        metavar="FIELD=NAME",
        help="the name that a field has in the file; may be given again",
    )
    parser.add_argument(
        "--id-from",
        type=_template,
        metavar="TEMPLATE",
        help='makes the ids of a file without any, such as "cdn:{date}:{customer}" of its columns',
    )
    parser.add_argument(
        "--occurred-at",
        type=time_argument,
        metavar="TIME",
        help="the time of every line, for a file without times",
    )
    parser.add_argument("--dry-run", action="store_true", help="check the file and send nothing")
    parser.add_argument(
        "--result", metavar="FILE", help="write id, line, status, amount, bill, month and problem"
    )
    parser.add_argument(
        "--connections",
        type=whole_number(1),
        default=CONNECTIONS,
        help=f"how many at once ({CONNECTIONS})",
    )
    parser.set_defaults(run=_run)


def _mapping(text: str) -> tuple[str, str]:
    field, _, name = text.partition("=")
    if field not in FIELDS or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=NAME with one of {FIELDS}")
    return field, name


def _template(text: str) -> str:
    try:
        check_template(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
    return text


def _run(options: argparse.Namespace, out: TextIO) -> int:
    fields = [field for field, _ in options.column]
    if twice := [field for field in fields if fields.count(field) > 1]:
        raise ConfigurationError(f"--column names {twice[0]} twice; leave one of them out.")
    layout = Layout(
        columns=dict(options.column), id_from=options.id_from, occurred_at=options.occurred_at
    )
    with ExitStack() as stack:
        file = stack.enter_context(opened(options.file))
        ending = "ndjson" if options.file.endswith((".ndjson", ".jsonl", ".json")) else "csv"
        lines = ndjson_lines if (options.format or ending) == "ndjson" else csv_lines
        run = _Run(lines(file, layout), file)
        if options.dry_run:
            return run.check(out)
        billing = stack.enter_context(BillingClient(options.url, outbox=""))
        if options.result:
            path = Path(options.result)
            if options.file != "-" and path.exists() and path.samefile(options.file):
                raise ConfigurationError("--result names the file that is sent; name another one.")
            # Written line by line. A problem may quote bytes that are not UTF-8.
            result = path.open(
                "w", buffering=1, encoding="utf-8", errors="backslashreplace", newline=""
            )
            run.keep_results(stack.enter_context(result))
        return run.send(billing, options.connections, out)


class _Run:
    """One run of the command, with the result of each line."""

    def __init__(self, lines: Iterator[Line], file: TextIOWrapper) -> None:
        self._lines = lines
        self._can_read_on = file.seekable()  # unlike a pipe, whose writer may wait for more
        self._bar = _Bar(file)
        self._numbers: dict[str, int] = {}  # of each id
        self._read = self._created = self._replayed = self._refused = self._noted = 0
        self._problems: list[str] = []
        self._keep: Callable[[Iterable[object]], object] = lambda result: None

    def keep_results(self, file: TextIO) -> None:
        """Write each line's result there as it becomes known."""
        self._keep = csv.writer(file).writerow
        self._keep(("id", "line", "status", "amount", "bill", "month", "problem"))

    def _usages(self) -> Iterator[Usage]:
        """The usage of each line that has one; the others are refused here."""
        for line in self._lines:
            self._read += 1
            name = line.request_id
            first = self._numbers.setdefault(name, line.number) if name else line.number
            if first != line.number:
                self._refuse(line.number, name, f"has the id {name} of line {first}")
            elif line.usage is None:
                self._refuse(line.number, name, line.problem)
            else:
                yield line.usage

    def send(self, billing: BillingClient, connections: int, out: TextIO) -> int:
        """Send all lines, print a summary and the next step, and return the status."""
        stopped = ""
        status = 1
        to_correct = []
        try:
            billing.record_many(self._usages(), connections=connections, on_progress=self._note)
        except BillingError as error:
            stopped = str(error)
            self._note_rest(error)
            if isinstance(error, AuthenticationError | ConfigurationError):
                status = 2
                to_correct.append("what stopped it")
        except KeyboardInterrupt as interrupt:
            stopped = "Interrupted."
            self._note_rest(interrupt)
            status = 130  # as main() returns it
        self._bar.clear()
        if stopped and self._can_read_on:
            self._read += sum(1 for _ in self._lines)
        recorded = self._created + self._replayed
        left = self._read - recorded - self._refused
        before = f" ({self._replayed:,} of them before)" if self._replayed else ""
        _say(
            out,
            f"{self._read:,} lines: {recorded:,} recorded{before}, {self._refused:,} refused,"
            f" {left:,} not sent or without an answer.",
        )
        self._say_problems(out)
        if stopped:
            _say(out, f"Stopped: {stopped}")
        if recorded == self._read and not stopped:
            return 0
        if self._refused:
            to_correct.append("the refused lines in the file")
        todo = f"Correct {' and '.join(to_correct)}, then run" if to_correct else "Run"
        _say(out, f"{todo} the same command again: recorded lines are not billed twice.")
        return status

    def check(self, out: TextIO) -> int:
        """Read all lines, print what was found, and return the status."""
        for _ in self._usages():
            pass
        self._bar.clear()
        _say(out, f"{self._read:,} lines checked, {self._refused:,} refused; nothing was sent.")
        self._say_problems(out)
        return int(self._refused > 0)

    def _say_problems(self, out: TextIO) -> None:
        for problem in self._problems:
            _say(out, problem)
        if self._refused > len(self._problems):
            _say(out, f"and {self._refused - len(self._problems):,} more refused lines")

    def _note(self, receipts: Receipts) -> None:
        for receipt in receipts:
            self._noted += 1
            name, number = receipt.request_id, self._numbers[receipt.request_id]
            if receipt.error is not None:
                self._refuse(number, name, str(receipt.error))
            else:
                self._created += receipt.status == "created"
                self._replayed += receipt.status == "replayed"
                bill = receipt.bill_id, receipt.month
                self._keep((name, number, receipt.status, receipt.amount, *bill, ""))
        self._bar.show(self._read)

    def _note_rest(self, error: Any) -> None:
        """Note the receipts that came after the error, which on_progress did not get."""
        self._note(Receipts(error.receipts)[self._noted :])

    def _refuse(self, number: int, request_id: str, problem: str) -> None:
        self._refused += 1
        self._keep((request_id, number, "rejected", "", "", "", problem))
        if len(self._problems) < _SHOWN_PROBLEMS:
            name = f" ({request_id})" if request_id else ""
            self._problems.append(f"line {number}{name}: {problem}")


class _Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, file: TextIOWrapper) -> None:
        self._file = file
        self._is_shown = sys.stderr.isatty()
        self._next = 0.0
        self._size = os.fstat(file.fileno()).st_size if self._is_shown and file.seekable() else 0

    def show(self, lines: int) -> None:
        """Show how far the file is read."""
        if not self._is_shown or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _BAR_SECONDS
        bar = ""
        if self._size:
            share = min(1.0, os.lseek(self._file.fileno(), 0, os.SEEK_CUR) / self._size)
            full = int(share * _BAR_WIDTH)
            bar = f"[{'#' * full}{' ' * (_BAR_WIDTH - full)}] {share:4.0%} "
        sys.stderr.write(f"\r{bar}{lines:,} lines")
        sys.stderr.flush()

    def clear(self) -> None:
        """Leave the terminal's line as it was."""
        if self._is_shown:
            sys.stderr.write(f"\r{' ' * (_BAR_WIDTH + 40)}\r")


def _say(out: TextIO, text: str) -> None:
    out.write(f"{text}\n")
