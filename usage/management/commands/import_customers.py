"""Brings in customers from another system's list."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db import IntegrityError

from usage.database.transactions import repeatable
from usage.management.books import BooksCommand
from usage.models import Bill, Change, Customer

_CUSTOMERS_AT_ONCE = 1000
_COLUMNS = {"id", "name"}
_OPTIONAL_COLUMNS = {"currency", "reference"}
_OUTCOMES = ("added", "renamed", "changed currency", "changed reference", "unchanged")
_ID = re.compile(r"[0-9]{1,19}")


class Row(NamedTuple):
    """A line of the file: a customer; a value is None if the line leaves it as it is."""

    line: int
    id: int
    name: str
    currency: str | None
    reference: str | None


class BadLines(Exception):
    """Lines that cannot be imported, each with its number and the reason."""

    def __init__(self, problems: Sequence[tuple[int, str]]) -> None:
        super().__init__(problems)
        self.problems = sorted(problems)


class Command(BooksCommand):
    """Imports the whole file in one transaction, or nothing of it."""

    help = (
        "Adds the customers of a CSV file with the columns id and name and, if wanted, currency and"
        " reference, and changes those that are there. It deletes none."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE.csv", help="in UTF-8, with a header")

    def handle(self, *, file: Path, **options: Any) -> None:
        try:
            rows = _read(file)
            done = repeatable(lambda: _store(rows), patience=inf)
        except BadLines as error:
            for line, reason in error.problems:
                self.stderr.write(f"line {line}: {reason}")
            raise CommandError(
                f"{file} has {len(error.problems)} mistakes: correct them, nothing was imported."
            ) from error
        except IntegrityError as error:
            raise CommandError(f"Nothing was imported, run the command again: {error}") from error
        self.stdout.write(", ".join(f"{outcome} {done[outcome]}" for outcome in _OUTCOMES))
        for row, other in _namesakes(rows):
            self.stderr.write(
                f"line {row.line}: customer {other} is called {row.name!r} too: see whether"
                " customers were added twice."
            )


def _read(file: Path) -> list[Row]:
    """Return the rows by customer id; raises BadLines, or CommandError for the whole file."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            lines = csv.reader(text, strict=True)
            return _rows(lines)
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not in UTF-8: save it as UTF-8.") from error
    except csv.Error as error:
        raise CommandError(f"{file} is not CSV from line {lines.line_num} on: {error}.") from error


def _rows(lines: Any) -> list[Row]:
    header = [cell.strip() for cell in next(lines, [])]
    given = set(header)
    if len(given) < len(header) or not _COLUMNS <= given <= _COLUMNS | _OPTIONAL_COLUMNS:
        raise CommandError(
            "The first line must be id,name and, if wanted, currency and reference, with commas"
            " between the names."
        )
    rows: dict[int, Row] = {}
    problems: list[tuple[int, str]] = []
    for cells in lines:
        if not cells:
            continue  # an empty line
        number = lines.line_num
        try:
            row = _row(number, header, cells)
        except ValidationError as error:
            problems += [(number, message) for message in error.messages]
            continue
        if rows.setdefault(row.id, row) is not row:
            problems.append((number, f"customer {row.id} is on line {rows[row.id].line} already."))
    if problems:
        raise BadLines(problems)
    return [rows[customer_id] for customer_id in sorted(rows)]


def _row(number: int, header: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(header):
        raise ValidationError(f"it has {len(cells)} values where the first line has {len(header)}.")
    values = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    if not _ID.fullmatch(values["id"]):
        raise ValidationError(f"the id {values['id']!r} is not a positive whole number.")
    row = Row(
        number,
        int(values["id"]),
        values["name"],
        values.get("currency") or None,
        values.get("reference"),
    )
    customer = _customer(row, None)
    try:
        customer.clean_fields()
    except ValidationError as error:
        problems = error.message_dict.items()
        said = [f"{field}: {' '.join(messages)}" for field, messages in problems]
        raise ValidationError(said) from error
    # In the normal form of stored names, for comparing both.
    reference = None if row.reference is None else customer.reference
    return row._replace(name=customer.name, reference=reference)


def _customer(row: Row, stored: Customer | None) -> Customer:
    """Return the customer as the row wants it."""
    customer = Customer(id=row.id, name=row.name)
    if stored is not None:
        customer.currency, customer.reference = stored.currency, stored.reference
    if row.currency is not None:
        customer.currency = row.currency
    if row.reference is not None:
        customer.reference = row.reference
    return customer


def _store(rows: Sequence[Row]) -> Counter[str]:
    """Add and change customers; count the changes; raises BadLines.

    The rows come, and are locked, in order of their ids: two imports then never wait for each
    other.
    """
    done: Counter[str] = Counter()
    problems: list[tuple[int, str]] = []
    remaining = iter(rows)
    while some := list(islice(remaining, _CUSTOMERS_AT_ONCE)):
        stored = Customer.objects.in_bulk([row.id for row in some])
        outcomes = {row: _outcome(row, stored.get(row.id)) for row in some}
        lines = {row.id: row.line for row in some if outcomes[row] == "changed currency"}
        bills = Bill.objects.filter(customer__in=lines).order_by()
        problems += [
            (
                lines[billed],
                f"customer {billed} has bills in another currency: make a new customer.",
            )
            for billed in set(bills.values_list("customer", flat=True))
        ]
        if not problems:
            changed = [
                _customer(row, stored.get(row.id)) for row in some if outcomes[row] != "unchanged"
            ]
            Customer.objects.bulk_create(
                changed,
                update_conflicts=True,
                unique_fields=["id"],
                update_fields=["name", "currency", "reference"],
            )
            Change.objects.keep_all(
                (customer.changes_from(stored.get(customer.pk)) for customer in changed),
                by="import_customers",
            )
        done.update(outcomes.values())
    if problems:
        raise BadLines(problems)
    return done


def _outcome(row: Row, stored: Customer | None) -> str:
    if stored is None:
        return "added"
    if row.currency not in (None, stored.currency):
        return "changed currency"
    if row.reference not in (None, stored.reference):
        return "changed reference"
    return "unchanged" if row.name == stored.name else "renamed"


def _namesakes(rows: Sequence[Row]) -> Iterator[tuple[Row, int]]:
    """Yield the rows whose names other customers have too, each with one of these."""
    remaining = iter(rows)
    while some := list(islice(remaining, _CUSTOMERS_AT_ONCE)):
        found = Customer.objects.filter(name__in={row.name for row in some}).order_by("pk")
        ids: dict[str, list[int]] = defaultdict(list)
        for pk, name in found.values_list("pk", "name"):
            ids[name].append(pk)
        for row in some:
            if other := next((pk for pk in ids[row.name] if pk != row.id), None):
                yield row, other
