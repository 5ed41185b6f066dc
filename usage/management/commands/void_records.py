"""Voids many records, chosen by a file of ids or by filters."""

from __future__ import annotations

import csv
import datetime as dt
from argparse import ArgumentTypeError
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db.models import Q

from usage.database.transactions import database_now
from usage.ledger.bulk_void import CHUNK, Selection, summary, void_all
from usage.ledger.void import VoidRefused, checked_reason
from usage.management.books import BooksCommand
from usage.models import UsageRecord
from usage.models.customer import LARGEST_ID
from usage.money import plain
from usage.periods import Period, day_bounds
from usage.validators import fit_price
from usage.verification import counted

_ACTOR = "void_records"
_IDS_AT_ONCE = 500


class Command(BooksCommand):
    """A dry run unless told to apply. Killed and run again, it voids the rest."""

    help = (
        "Voids the records that all the options given match. Without --apply it only says what it"
        " would void."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--ids", type=Path, metavar="FILE", help="a file of request_ids, one a line"
        )
        parser.add_argument("--key", type=_id, metavar="ID", help="reported by this API key")
        parser.add_argument("--customer", type=_id, metavar="ID", help="of this customer")
        parser.add_argument("--bill", type=_id, metavar="ID", help="on this bill")
        parser.add_argument("--service", help="of this service, by its exact name")
        parser.add_argument("--price", help="at this unit price")
        for name, what in (("", "occurred"), ("recorded-", "recorded")):
            parser.add_argument(
                f"--{name}from", metavar="DAY", help=f"{what} on this day or later, as 2026-11-01"
            )
            parser.add_argument(f"--{name}to", metavar="DAY", help=f"{what} on this day or earlier")
        parser.add_argument("--late", action="store_true", help="that came late for their bill")
        parser.add_argument("--reason", required=True, help="kept with each void for ever")
        parser.add_argument("--csv", type=Path, metavar="FILE", help="write the ids chosen there")
        parser.add_argument("--apply", action="store_true", help="void them")

    def handle(self, *, reason: str, apply: bool, **options: Any) -> None:
        try:
            checked_reason(reason, _ACTOR)
        except VoidRefused as error:
            raise CommandError(f"Nothing was voided. {error}") from error
        selections = _selections(options, database_now())
        found = summary(selections)
        sums = [f"{plain(amount)} {currency}" for currency, amount in sorted(found.amounts.items())]
        self.stdout.write(
            f"{counted(found.records, 'record')} to void, {', '.join(sums) or 'nothing'}, on"
            f" {counted(found.open_bills, 'open bill')} and"
            f" {counted(found.closed_bills, 'closed bill')}."
        )
        if options["csv"]:
            _write_ids(options["csv"], selections)
        if not apply:
            self.stdout.write("Nothing was voided. Add --apply to void them.")
            return
        done = 0
        run = f"{counted(found.records, 'record')} in all; {selections[0]}"
        for selection in selections:
            for chunk in selection.chunks(CHUNK):
                try:
                    done += void_all(chunk, reason=reason, by=_ACTOR, run=run)
                except VoidRefused as error:
                    raise CommandError(f"Stopped after {counted(done, 'void')}: {error}") from error
                self.stdout.write(f"{done:,} of {found.records:,} voided")
        self.stdout.write(f"{counted(done, 'record')} voided.")


def _id(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= LARGEST_ID:
        raise ArgumentTypeError(f"{text!r} is not an id.")
    return int(text)


def _selections(options: dict[str, Any], up_to: dt.datetime) -> list[Selection]:
    """Return the records chosen; a large file of ids in several parts."""
    records = UsageRecord.objects.filter(_condition(options))
    if not (path := options["ids"]):
        if not records.query.has_filters():
            raise CommandError("Say which records to void: give --ids or a filter.")
        customer = None if options["bill"] else options["customer"]
        return [Selection(records, up_to, customer=customer, patience=True)]
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} has more than request_ids, one a line, in ASCII.") from error
    ids = [line.strip() for line in text.replace("\0", "\ufffd").splitlines() if line.strip()]
    ids = list(dict.fromkeys(ids))
    if not ids:
        raise CommandError(f"{path} has no request_ids.")
    parts = [ids[start : start + _IDS_AT_ONCE] for start in range(0, len(ids), _IDS_AT_ONCE)]
    known = {pk for part in parts for pk in UsageRecord.objects.in_bulk(part)}
    if missing := [request_id for request_id in ids if request_id not in known]:
        raise CommandError(
            f"{path} has {counted(len(missing), 'request_id')} that no record has; the first is"
            f" {missing[0]!r}. Nothing was voided."
        )
    return [Selection(records.filter(pk__in=part), up_to, patience=True) for part in parts]


def _condition(options: dict[str, Any]) -> Q:
    condition = Q()
    fields = {"key": "reported_by", "customer": "customer", "bill": "bill", "service": "service"}
    for option, field in fields.items():
        if options[option] is not None:
            condition &= Q((field, options[option]))
    if options["price"] is not None:
        try:
            condition &= Q(price_per_unit=fit_price(Decimal(options["price"])))
        except (InvalidOperation, ValidationError) as error:
            raise CommandError(f"{options['price']!r} is not a unit price. Use 0.05.") from error
    for prefix, field in (("", "occurred_at"), ("recorded_", "recorded_at")):
        if day := options[f"{prefix}from"]:
            condition &= Q((f"{field}__gte", _period(day).start))
        if day := options[f"{prefix}to"]:
            condition &= Q((f"{field}__lt", _period(day).end))
    if options["late"]:
        condition &= Q(late=True)
    return condition


def _period(day: str) -> Period:
    try:
        return day_bounds(dt.date.fromisoformat(day))
    except (ValueError, OverflowError) as error:  # the ends of Python's calendar
        raise CommandError(f"{day!r} is not a day. Use YYYY-MM-DD.") from error


def _write_ids(path: Path, selections: list[Selection]) -> None:
    try:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["request_id"])
            for selection in selections:
                for chunk in selection.chunks(1000):
                    writer.writerows([record.pk] for record in chunk)
    except OSError as error:
        raise CommandError(
            f"{path} cannot be written: {error.strerror}. Nothing was voided."
        ) from error
