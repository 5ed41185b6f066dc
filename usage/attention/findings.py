"""Findings: what staff should look at before a bill closes."""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
from decimal import Decimal
from typing import NamedTuple

from usage.models import Line
from usage.money import plain

# The thresholds of all findings. docs/staff.md states them too.
MONTHS_COMPARED = 3
UNUSUAL_FACTOR = 3  # a month over 3 times its average, or under a third of it
DAY_FACTOR = 10  # a day's units of a service over 10 times the median of its other days
FEWEST_DAYS = 5  # other days with usage, or a service has no habit yet
PAIRS_KEPT = 5


class Kind(enum.Enum):
    """The kinds of findings; the value is what staff read."""

    HIGH = "High total"
    LOW = "Low total"
    DAY = "Unusual day"
    FREE = "Price of 0"
    DUPLICATES = "Possible duplicates"
    LATE = "Late usage"
    DUE = "Due to close"
    SILENT = "Silent API key"

    @property
    def blocks(self) -> bool:
        """Whether a bill with such a finding is closed only by staff who saw it."""
        return self in {Kind.HIGH, Kind.LOW, Kind.DAY, Kind.FREE, Kind.DUPLICATES}


class Finding(NamedTuple):
    """One finding about a bill, or about an API key.

    `amount` is in the bill's currency. `since` is a day of the billing time zone. `checked_at` is
    when `check_usage` found it, if it did.
    """

    kind: Kind
    text: str
    since: dt.date
    amount: Decimal | None = None
    service: str = ""
    price: Decimal | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    checked_at: dt.datetime | None = None

    @property
    def flag(self) -> str:
        """A short name of the finding, for pages to say which findings they showed."""
        return flag_of(self.kind, self.service, self.price)


def flag_of(kind: Kind, service: str = "", price: Decimal | None = None) -> str:
    """Return the flag of a finding of this kind about this service and price."""
    what = f"{kind.name} {service} {'' if price is None else plain(price)}"
    return hashlib.blake2b(what.encode(), digest_size=6).hexdigest()


class Comparison(NamedTuple):
    """A customer's month beside the months before: exact sums of all the customer's bills.

    While the month runs, each month before counts only up to the same day. `average` is over the
    months of the three before since the customer's first bill; both are None without any.
    """

    total: Decimal
    previous: Decimal | None
    average: Decimal | None
    is_running: bool


class Examined(NamedTuple):
    """A bill's amounts and its findings; those that block are first.

    `days` are the exact amounts of its days.
    """

    total: Decimal
    lines: list[Line]
    days: dict[dt.date, Decimal]
    comparison: Comparison
    findings: list[Finding]

    @property
    def blocking(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind.blocks]

    @property
    def flags(self) -> frozenset[str]:
        """The flags of the findings that block."""
        return frozenset(finding.flag for finding in self.blocking)
