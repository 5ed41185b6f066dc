"""Verifies bills against the usage records themselves, for operators and cron."""

import contextlib
import datetime as dt
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import dj_database_url
from django.core.management.base import CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections

from usage.management.books import NOT_DONE
from usage.management.scheduled import ScheduledCommand
from usage.models import Bill
from usage.models.bill import BillQuerySet
from usage.models.customer import LARGEST_ID
from usage.verification import Verification, counted

# What DATABASE_URL may say after its ? about where the primary is.
_PLACE = {"host", "hostaddr", "port", "target_session_attrs"}


class Command(ScheduledCommand):
    """Prints one line for each difference.

    The exit status is 1 if there is any, and 2 if the bills could not be verified.
    """

    help = "Computes bills again from their usage records, and says where they differ."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--bill", type=int, action="append", metavar="ID", help="this bill; may be repeated"
        )
        parser.add_argument("--month", metavar="YYYY-MM", help="the bills of this month")
        parser.add_argument(
            "--read-from",
            metavar="URL",
            help="read this database, such as a standby; the result is kept in DATABASE_URL's",
        )

    def handle(
        self,
        *,
        bill: list[int] | None,
        month: str | None,
        read_from: str | None = None,
        **options: Any,
    ) -> None:
        is_whole = self.is_kept = bill is None and month is None
        with contextlib.nullcontext() if read_from is None else _reading(read_from):
            verification = Verification(None if is_whole else _chosen(bill, month))
            for difference in verification.differences():
                self.stdout.write(str(difference))
                self.counted += 1
        read = (
            f"{counted(verification.bills, 'bill')} with"
            f" {counted(verification.records, 'record')} verified"
        )
        if self.counted:
            raise CommandError(f"{read}: {counted(self.counted, 'difference')}.")
        self.stdout.write(f"{read}: no difference.")


@contextlib.contextmanager
def _reading(url: str) -> Iterator[None]:
    """Let queries of the block go to another database; raises CommandError for a wrong URL."""
    primary = connections[DEFAULT_DB_ALIAS]
    other = settings_of(url, primary.settings_dict, vendor=primary.vendor)
    connections[DEFAULT_DB_ALIAS] = type(primary)(other, DEFAULT_DB_ALIAS)
    try:
        yield
    finally:
        connections[DEFAULT_DB_ALIAS].close()
        connections[DEFAULT_DB_ALIAS] = primary


def settings_of(url: str, primary: dict[str, Any], *, vendor: str) -> dict[str, Any]:
    """Return the primary's settings for another place; raises CommandError for a wrong URL."""
    try:
        parsed: dict[str, Any] = {**dj_database_url.parse(url)}
    except ValueError:
        parsed = {"ENGINE": "", "NAME": ""}
    if not parsed["NAME"] or not parsed["ENGINE"].startswith(f"django.db.backends.{vendor}"):
        raise CommandError(
            "--read-from is not the address of a database: give one like DATABASE_URL.",
            returncode=NOT_DONE,
        ) from None  # the error has the password
    place = {name: parsed[name] for name in ("NAME", "USER", "PASSWORD", "HOST", "PORT")}
    options = {name: primary["OPTIONS"][name] for name in primary["OPTIONS"].keys() - _PLACE}
    given = parsed.get("OPTIONS", {})
    if "options" in given:
        given["options"] = f"{options.get('options', '')} {given['options']}"
    return primary | place | {"HOST": unquote(parsed["HOST"]), "OPTIONS": options | given}


def _chosen(ids: list[int] | None, month: str | None) -> BillQuerySet:
    """Return the bills with these ids, of this month, or both.

    Raises CommandError if there is none, or not each of the ids: nothing would be verified.
    """
    bills = Bill.objects.with_unreadable()
    if ids is not None:
        possible = [bill_id for bill_id in ids if 0 < bill_id <= LARGEST_ID]  # SQLite takes no more
        bills = bills.filter(pk__in=possible)
        if missing := set(ids) - set(bills.values_list("pk", flat=True)):
            raise CommandError(
                f"There is no bill {', '.join(map(str, sorted(missing)))}: give ids of existing"
                " bills.",
                returncode=NOT_DONE,
            )
    if month is not None:
        try:
            first_day = dt.datetime.strptime(month, "%Y-%m").date()  # noqa: DTZ007 - has no zone
        except ValueError as error:
            raise CommandError(
                f"{month!r} is not a month. Use YYYY-MM.", returncode=NOT_DONE
            ) from error
        bills = bills.filter(month=first_day)
        if not bills.exists():
            raise CommandError(
                f"There is no such bill of {month}: give a month that has one.",
                returncode=NOT_DONE,
            )
    return bills
