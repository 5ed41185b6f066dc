"""Closes the bills whose month and grace are over, for cron."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from django.core.management.base import CommandError, CommandParser

from usage.attention.bills import examine
from usage.database.transactions import database_now
from usage.ledger.close import BillChanged, BillOnHold, close
from usage.management.scheduled import LEFT_FOR_STAFF, ScheduledCommand
from usage.models import Bill
from usage.verification import counted

_BILLS_AT_ONCE = 100


class Command(ScheduledCommand):
    """Closes each bill in a transaction of its own, so that one that fails stops no other."""

    help = "Closes every bill whose month and grace are over. Running it again does no harm."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="say what would be closed")
        parser.add_argument(
            "--except-flagged",
            action="store_true",
            help="leave bills open that need attention, and exit 3 if there are any",
        )

    def handle(self, *, dry_run: bool, except_flagged: bool, **options: Any) -> None:
        self.is_kept = not dry_run
        left = failed = 0
        for bill, expected_total, why_not in _due(except_flagged=except_flagged):
            reason = why_not
            try:
                is_closed = not why_not and (
                    dry_run or close(bill, by="close_bills", expected_total=expected_total)
                )
            except (BillChanged, BillOnHold) as error:
                is_closed, reason = False, str(error)
            except Exception as error:  # noqa: BLE001 - no bill may keep the others open
                self.stderr.write(f"Left open {bill}: {error}")
                failed += 1
                continue
            # Not within the try: a bill that is closed and cannot be printed was not left open.
            if reason:
                left += 1
                self._say(f"Left for staff {bill}: {reason}")
            elif is_closed:
                self.counted += 1
                did = "Would close" if dry_run else "Closed"
                self._say(f"{did} {bill}: {bill.total:f} {bill.currency}")
        for bill_id in Bill.objects.with_unreadable().unreadable().values_list("pk", flat=True):
            self.stderr.write(f"Passed over bill {bill_id}: it cannot be read, see verify_bills.")
            failed += 1
        if self.counted or dry_run:  # cron mails all output, every hour
            said = "would be closed" if dry_run else "closed"
            self._say(f"{counted(self.counted, 'bill')} {said}.")
        if failed:
            raise CommandError(
                f"{counted(failed, 'bill')} could not be closed: run the command again."
            )
        if left and except_flagged:
            raise CommandError(
                f"{counted(left, 'bill')} left for staff.", returncode=LEFT_FOR_STAFF
            )

    def _say(self, line: str) -> None:
        """Print at once: a run that is killed has named the bills it closed."""
        self.stdout.write(line)
        self.stdout.flush()


def _due(*, except_flagged: bool) -> Iterator[tuple[Bill, Decimal | None, str]]:
    """Yield each due bill, with the total it was examined at and why it is left for staff, or "".

    Closing a bill ends the transaction, so one transaction cannot read them all.
    """
    due = Bill.objects.due(database_now()).select_related("customer", "hold")
    for chunk in due.chunks(_BILLS_AT_ONCE):
        examined = examine(chunk, database_now()) if except_flagged else {}
        for bill in chunk:
            if hasattr(bill, "hold"):
                yield bill, None, f"on hold since {bill.hold.at:%Y-%m-%d}: {bill.hold.reason}"
            elif found := examined.get(bill.pk):
                why_not = "; ".join(f"{one.kind.value}: {one.text}" for one in found.blocking)
                yield bill, found.total, why_not
            else:
                yield bill, None, ""
