"""Facts that callers report, and the ledger's answers: plain data."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import NamedTuple


class Fact(NamedTuple):
    """A fact that a caller reports, within the bounds of `usage.validators`.

    Units have 6 decimal places and prices 12. `occurred_at` is in UTC, to the millisecond, or
    None if it is the instant at which the fact is recorded.
    """

    request_id: str
    customer_id: int
    service: str
    units: Decimal
    price_per_unit: Decimal
    occurred_at: dt.datetime | None = None


class StoredRecord(NamedTuple):
    """A usage record as it is answered. Instants are in UTC, to the millisecond."""

    request_id: str
    customer_id: int
    service: str
    units: Decimal
    price_per_unit: Decimal
    occurred_at: dt.datetime
    recorded_at: dt.datetime
    late: bool
    bill_id: int
    bill_month: dt.date


class Recorded(NamedTuple):
    """The fact is stored. `replayed` tells that it was stored before this call."""

    record: StoredRecord
    replayed: bool


class Conflict(NamedTuple):
    """The request_id is taken by another fact, which differs in these fields of the wire."""

    fields: list[str]


class Refused(NamedTuple):
    """The fact cannot be recorded: the field of the wire at fault, a code and the reason."""

    field: str
    code: str
    detail: str


Outcome = Recorded | Conflict | Refused


class Voiding(NamedTuple):
    """The record that a fact voids, with the bill it is on, and who voids it and why."""

    record_id: str
    bill_id: int
    reason: str
    by: str


class DailyAddition(NamedTuple):
    """Units and records that new records add to one row of daily usage."""

    customer_id: int
    bill_id: int
    service: str
    price_per_unit: Decimal
    day: dt.date
    slot: int
    units: Decimal
    records: int


class DailyUsageOverflow(Exception):
    """A row of daily usage would exceed the exact range of SQLite's 64 bits."""


class CloseLockBusy(Exception):
    """A bill is being closed, or a close is waiting; nothing was done."""
