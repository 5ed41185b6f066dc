"""Closes the bills whose month and grace are over, for cron."""

from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from usage.database.transactions import DatabaseUnavailable, database_now
from usage.ledger.close import BillTotalTooLarge, close
from usage.models import Bill
from usage.verification import counted

_BILLS_AT_ONCE = 200


class Command(BaseCommand):
    """Closes each bill in a transaction of its own, so that one that fails stops no other."""

    help = "Closes every bill whose month and grace are over. Running it again does no harm."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="say what would be closed")

    def handle(self, *, dry_run: bool, **options: Any) -> None:
        done = failed = 0
        for bill in _due():
            try:
                if dry_run or close(bill, by="close_bills"):
                    said = "Would close" if dry_run else "Closed"
                    self.stdout.write(f"{said} {_described(bill)}")
                    done += 1
            except (BillTotalTooLarge, DatabaseUnavailable) as error:
                self.stderr.write(f"Left open {bill}: {error}")
                failed += 1
        self.stdout.write(f"{counted(done, 'bill')} {'would be closed' if dry_run else 'closed'}.")
        if failed:
            raise CommandError(
                f"{counted(failed, 'bill')} could not be closed: run the command again."
            )


def _due() -> Iterator[Bill]:
    """Yield the bills to close, a page at a time: closing them ends any longer transaction."""
    due = Bill.objects.due(database_now()).select_related("customer").order_by("pk")
    last = 0
    while page := list(due.filter(pk__gt=last)[:_BILLS_AT_ONCE]):
        yield from page
        last = page[-1].pk


def _described(bill: Bill) -> str:
    return f"{bill}: {bill.total:f} {bill.currency}"
