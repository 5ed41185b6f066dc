"""The ledger's statements for PostgreSQL: a fixed number of them, however many records.

Rows are passed as arrays, one a column, so that a statement has the same text for any number of
them. Those that every request needs are prepared: see `usage.database.prepared`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.db.backends.utils import CursorWrapper

from usage.currencies import digits_sql
from usage.database import prepared
from usage.database.transactions import NOW, ON_STANDBY, instant
from usage.ledger.facts import CloseLockBusy, DailyAddition, StoredRecord, Voiding
from usage.ledger.target_bill import TWO_MONTHS_IN_DAYS, ExistingBill, MissingBill

# One of as many advisory locks stands for each customer, by its id: few enough to take in one
# statement for any batch. Recording takes them shared and closing exclusively.
CLOSE_LOCKS = 64
# The first of PostgreSQL's two advisory lock keys. Nothing else in the database locks under it.
CLOSE_LOCK_KEY = 0x0B111
# A search is planned again after this: planned while a table was small, it reads all of it.
_PLANNED_SECONDS = 10.0


@dataclass(slots=True)
class PostgreSQLStatements:
    """The statements, on a cursor inside the caller's transaction."""

    cursor: CursorWrapper

    def take_close_lock(
        self, customer_ids: Iterable[int], *, exclusive: bool = False, wait: bool = True
    ) -> None:
        """Hold off closing (or, `exclusive`, recording) for these customers until the commit.

        Raises CloseLockBusy instead of waiting unless `wait`.
        """
        function = "pg_advisory_xact_lock" if wait else "pg_try_advisory_xact_lock"
        if not exclusive:
            function = f"{function}_shared"
        # In one order, so that no two transactions wait for each other.
        locks = sorted({customer_id % CLOSE_LOCKS for customer_id in customer_ids})
        prepared.execute(
            self.cursor,
            f"usage_{function}",
            f"SELECT {function}({CLOSE_LOCK_KEY}, lock) FROM unnest(%s::int[]) AS lock",
            [locks],
        )
        if not wait and not all(taken for (taken,) in self.cursor.fetchall()):
            raise CloseLockBusy("A bill is being closed: wait for it, or come back.")

    def accounts(
        self, customer_ids: Collection[int]
    ) -> tuple[dt.datetime, str | None, dt.date, dict[int, list[ExistingBill]]]:
        """Return the clock, the zone of the books, the last past day and each customer's bills.

        Unknown customers are left out, and so are bills that no longer matter.
        """
        prepared.execute(
            self.cursor,
            "usage_accounts",
            # Grouped by their dates, which most bills share: so few are made into text and read.
            f"SELECT {NOW['postgresql']}::text, (SELECT name FROM usage_billingtimezone),"
            " (SELECT until::text FROM usage_pastdays),"
            " array_agg(asked.id), array_agg(bill.id), bill.month::text,"
            " bill.period_start::text, bill.period_end::text, bill.closed_at IS NULL"
            " FROM unnest(%s::bigint[]) AS asked(id)"
            " LEFT JOIN usage_bill bill ON bill.customer_id = asked.id"
            f" AND (bill.closed_at IS NULL OR bill.month >= {NOW['postgresql']}::date - %s::int)"
            " GROUP BY bill.month, bill.period_start, bill.period_end, bill.closed_at IS NULL",
            [_array(customer_ids), TWO_MONTHS_IN_DAYS + settings.BILLING_GRACE_DAYS],
            seconds=_PLANNED_SECONDS,
        )
        rows = self.cursor.fetchall()
        accounts: dict[int, list[ExistingBill]] = {}
        for _, _, _, customers, ids, month, start, end, is_open in rows:
            if month is None:  # without a bill, or unknown
                self.cursor.execute(
                    "SELECT id FROM usage_customer WHERE id = ANY(%s::bigint[])",
                    [_array(customers)],
                )
                accounts |= {customer_id: [] for (customer_id,) in self.cursor.fetchall()}
                continue
            alike = _date(month), _instant(start), _instant(end), is_open
            for customer_id, bill_id in zip(customers, ids, strict=True):
                accounts.setdefault(customer_id, []).append(ExistingBill(bill_id, *alike))
        now, zone, past_until = rows[0][:3]
        return instant(now), zone, _date(past_until) if past_until else dt.date.min, accounts

    def open_bills(self, bills: Sequence[MissingBill]) -> set[int]:
        """Open those bills that are still missing, and return their ids."""
        columns = zip(*bills, strict=True)
        # Customers are locked in one order, and against a change of their currency.
        self.cursor.execute(
            "INSERT INTO usage_bill (customer_id, month, period_start, period_end, currency,"
            " minor_unit_digits)"
            f" SELECT missing.*, customer.currency, {digits_sql('customer.currency')}"
            " FROM unnest(%s::bigint[], %s::date[], %s::timestamptz[], %s::timestamptz[])"
            " AS missing (customer_id, month, period_start, period_end)"
            " JOIN usage_customer customer ON customer.id = missing.customer_id"
            " ORDER BY missing.customer_id FOR KEY SHARE OF customer"
            " ON CONFLICT DO NOTHING RETURNING id",
            [_array(column) for column in columns],
        )
        return {bill_id for (bill_id,) in self.cursor.fetchall()}

    def insert_records(
        self,
        records: Sequence[tuple[StoredRecord, int | None]],
        voiding: Voiding | None,
    ) -> set[str]:
        """Insert those records whose ids are new, and return their ids.

        Each comes with the id of the API key that reported it. All were recorded at one instant.
        """
        columns = zip(*(record for record, _ in records), strict=True)
        request_ids, customers, services, units, prices, occurred, _, late, bills, _ = columns
        prepared.execute(
            self.cursor,
            "usage_insert_records",
            # Answered by one row: the ids are needed only where some were passed over.
            "WITH new AS (INSERT INTO usage_usagerecord"
            " (recorded_at, voids_id, void_reason, voided_by, request_id, customer_id, service,"
            " units, price_per_unit, occurred_at, late, bill_id, reported_by_id)"
            " SELECT %s::timestamptz, %s::text, %s::text, %s::text, given.*"
            " FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::numeric[], %s::numeric[],"
            " %s::timestamptz[], %s::bool[], %s::bigint[], %s::bigint[]) AS given"
            " ON CONFLICT (request_id) DO NOTHING RETURNING request_id)"
            " SELECT CASE WHEN count(*) < %s::int THEN coalesce(array_agg(request_id), '{}') END"
            " FROM new",
            [
                records[0][0].recorded_at,
                voiding and voiding.record_id,
                voiding.reason if voiding else "",
                voiding.by if voiding else "",
                _text_array(request_ids),
                _array(customers),
                _text_array(services),
                _array(units),
                _array(prices),
                _time_array(occurred),
                _array(late),
                _array(bills),
                _array(key for _, key in records),
                len(records),
            ],
        )
        (inserted,) = self.cursor.fetchone()
        return set(request_ids if inserted is None else inserted)

    def add_to_daily_usage(self, additions: Sequence[DailyAddition]) -> None:
        """Add the units and records of new records to daily usage."""
        columns = zip(*additions, strict=True)
        customers, bills, services, prices, days, slots, units, records = columns
        prepared.execute(
            self.cursor,
            "usage_add_to_daily_usage",
            "INSERT INTO usage_dailyusage (customer_id, bill_id, service, price_per_unit,"
            " day, slot, units, records)"
            " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::numeric[],"
            " %s::date[], %s::int[], %s::numeric[], %s::bigint[])"
            " ON CONFLICT (bill_id, service, price_per_unit, day, slot) DO UPDATE SET"
            " units = usage_dailyusage.units + excluded.units,"
            " records = usage_dailyusage.records + excluded.records",
            [
                _array(customers),
                _array(bills),
                _text_array(services),
                _array(prices),
                _time_array(days),
                _array(slots),
                _array(units),
                _array(records),
            ],
        )

    def stored(self, request_ids: Iterable[str]) -> dict[str, StoredRecord]:
        """Return the records with these ids, by id; the commit waits until they are replicated."""
        # Not prepared: planned while the table was small, it would go on reading all of it.
        self.cursor.execute(
            "SELECT record.request_id, record.customer_id, record.service, record.units,"
            " record.price_per_unit, record.occurred_at, record.recorded_at, record.late,"
            f" record.bill_id, bill.month, {ON_STANDBY}"
            " FROM usage_usagerecord record JOIN usage_bill bill ON bill.id = record.bill_id"
            " WHERE record.request_id = ANY(%s::text[])",
            [_text_array(request_ids)],
        )
        return {row[0]: StoredRecord(*row[:-1]) for row in self.cursor.fetchall()}


# PostgreSQL reads the text of an array at once; psycopg2's own adaptation takes value by value.


def _array(values: Iterable[Any]) -> str:
    """Return the text of an array of numbers, booleans or nulls."""
    return "{" + ",".join(map(str, values)).replace("None", "NULL") + "}"


def _text_array(values: Iterable[str]) -> str:
    """Return the text of an array of one text or more, none of which has a control character."""
    text = _BETWEEN.join(values).replace("\\", "\\\\").replace('"', '\\"')
    return '{"' + text.replace(_BETWEEN, '","') + '"}'


def _time_array(values: Iterable[dt.date]) -> str:
    """Return the text of an array of dates or instants."""
    return "{" + ",".join(map(_time_text, values)) + "}"


_BETWEEN = "\x1f"
# The records of a batch share most of theirs.
_time_text = lru_cache(maxsize=64)(str)
_instant = lru_cache(maxsize=64)(dt.datetime.fromisoformat)
_date = lru_cache(maxsize=64)(dt.date.fromisoformat)
