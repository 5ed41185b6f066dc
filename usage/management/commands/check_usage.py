"""Looks for usage that staff should see before its bill closes, for cron."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from usage.attention.bills import examine
from usage.attention.duplicates import find_duplicates
from usage.attention.findings import Finding, Kind
from usage.attention.keys import silent_keys
from usage.database.transactions import database_now
from usage.ledger import past_days
from usage.management.scheduled import ScheduledCommand
from usage.models import Bill, UsageCheck
from usage.money import plain
from usage.periods import day_of
from usage.verification import counted

_BILLS_AT_ONCE = 100


class Command(ScheduledCommand):
    """Prints one line for each finding; the exit status is 1 if any blocks closing."""

    help = (
        "Reads the records of every open bill for possible duplicates, keeps them and the sums of"
        " past days for the pages of staff, and prints everything that needs attention. Run it"
        " before close_bills."
    )

    def handle(self, **options: Any) -> None:
        self.blocking = self.informing = bills = records = 0
        flagged = []
        now = database_now()
        past_days.add_up(now)
        for chunk in Bill.objects.open().select_related("customer").chunks(_BILLS_AT_ONCE):
            bills += len(chunk)
            records += sum(find_duplicates(bill) for bill in chunk)
            examined = examine(chunk, now)
            for bill in chunk:
                findings = examined[bill.pk].findings
                if any(finding.kind is not Kind.DUE for finding in findings):
                    flagged.append(bill.pk)
                for finding in findings:
                    self._tell(str(bill), finding, bill.currency)
        for api_key, finding in silent_keys(day_of(now)):
            self._tell(str(api_key), finding)
        UsageCheck.objects.all().delete()
        UsageCheck.objects.create(
            finished_at=database_now(),
            bills=bills,
            blocking=self.blocking,
            informing=self.informing,
            flagged=flagged,
        )
        read = f"{counted(bills, 'open bill')} with {counted(records, 'record')} checked"
        found = f"{self.blocking} blocking, {self.informing} informing"
        self.counted = self.blocking
        if self.blocking:
            raise CommandError(f"{read}: {found}.")
        self.stdout.write(f"{read}: {found}.")

    def _tell(self, about: str, finding: Finding, currency: str = "") -> None:
        self.blocking += finding.kind.blocks
        self.informing += not finding.kind.blocks
        words = [
            "Blocks:" if finding.kind.blocks else "Informs:",
            f"{about}: {finding.kind.value}",
            *([f"of {finding.service}"] if finding.service else []),
            *([f"at {plain(finding.price)}"] if finding.price is not None else []),
            f"since {finding.since}: {finding.text}",
            *([f"({plain(finding.amount)} {currency})"] if finding.amount is not None else []),
            *(f"{second} = {first}" for second, first in finding.pairs),
        ]
        self.stdout.write(" ".join(words))
