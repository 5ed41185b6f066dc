"""The ledger's statements for SQLite: a fixed number of them, however many records.

Instants are text in UTC, exact decimals scaled integers, and lists JSON. There is one writer at a
time, so nothing here takes a lock.
"""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache

from django.conf import settings
from django.db import IntegrityError
from django.db.backends.utils import CursorWrapper

from usage.currencies import digits_sql
from usage.database.transactions import NOW, instant
from usage.ledger.facts import DailyAddition, DailyUsageOverflow, StoredRecord, Voiding
from usage.ledger.target_bill import TWO_MONTHS_IN_DAYS, ExistingBill, MissingBill
from usage.money import EXACT
from usage.validators import PRICE_DIGITS, UNITS_DIGITS

# The scales of the ExactDecimalFields: SQLite keeps their values as whole numbers.
_UNITS_PLACES = UNITS_DIGITS["decimal_places"]
_PRICE_PLACES = PRICE_DIGITS["decimal_places"]


@dataclass(slots=True)
class SQLiteStatements:
    """The statements of `PostgreSQLStatements`, on a cursor inside the caller's transaction."""

    cursor: CursorWrapper

    def take_close_lock(
        self, customer_ids: Iterable[int], *, exclusive: bool = False, wait: bool = True
    ) -> None:
        """Do nothing: the transaction began IMMEDIATE, so no other one writes until it ends."""

    def accounts(
        self, customer_ids: Collection[int]
    ) -> tuple[dt.datetime, str | None, dt.date, dict[int, list[ExistingBill]]]:
        # A column behind `|| ''` has no declared type, so Django leaves its text alone.
        self.cursor.execute(
            f"SELECT {NOW['sqlite']}, (SELECT name FROM usage_billingtimezone),"
            " (SELECT until || '' FROM usage_pastdays),"
            " customer.id, bill.id, bill.month || '',"
            " bill.period_start || '', bill.period_end || '', bill.closed_at IS NULL"
            " FROM (SELECT value AS id FROM json_each(%s)) AS asked"
            " LEFT JOIN usage_customer customer ON customer.id = asked.id"
            " LEFT JOIN usage_bill bill ON bill.customer_id = customer.id AND (bill.closed_at"
            f" IS NULL OR bill.month >= date({NOW['sqlite']}, '-' || %s || ' days'))",
            [json.dumps(list(customer_ids)), TWO_MONTHS_IN_DAYS + settings.BILLING_GRACE_DAYS],
        )
        rows = self.cursor.fetchall()
        accounts: dict[int, list[ExistingBill]] = {}
        for _, _, _, customer_id, bill_id, month, start, end, is_open in rows:
            if customer_id is not None:
                bills = accounts.setdefault(customer_id, [])
                if bill_id is not None:
                    alike = _date(month), _utc(start), _utc(end), bool(is_open)
                    bills.append(ExistingBill(bill_id, *alike))
        now, zone, past_until = rows[0][:3]
        return instant(now), zone, _date(past_until) if past_until else dt.date.min, accounts

    def open_bills(self, bills: Sequence[MissingBill]) -> set[int]:
        rows = [
            (customer_id, month.isoformat(), _text(start), _text(end))
            for customer_id, month, start, end in bills
        ]
        self.cursor.execute(
            "WITH missing (customer_id, month, period_start, period_end) AS"
            f" (SELECT {_columns(4)} FROM json_each(%s))"
            " INSERT INTO usage_bill (customer_id, month, period_start, period_end, currency,"
            " minor_unit_digits)"
            f" SELECT missing.*, customer.currency, {digits_sql('customer.currency')} FROM missing"
            " JOIN usage_customer customer ON customer.id = missing.customer_id"
            # Not ON CONFLICT: a guard refuses a key that exists before SQLite looks for conflicts.
            " WHERE NOT EXISTS (SELECT 1 FROM usage_bill bill"
            " WHERE bill.customer_id = missing.customer_id"
            " AND bill.period_end > missing.period_start"
            " AND bill.period_start < missing.period_end) RETURNING id",
            [json.dumps(rows)],
        )
        return {bill_id for (bill_id,) in self.cursor.fetchall()}

    def insert_records(
        self,
        records: Sequence[tuple[StoredRecord, int | None]],
        voiding: Voiding | None,
    ) -> set[str]:
        rows = [
            (
                record.request_id,
                record.customer_id,
                record.service,
                _scaled(record.units, _UNITS_PLACES),
                _scaled(record.price_per_unit, _PRICE_PLACES),
                _text(record.occurred_at),
                record.late,
                record.bill_id,
                reported_by_id,
            )
            for record, reported_by_id in records
        ]
        self.cursor.execute(
            "INSERT INTO usage_usagerecord (recorded_at, voids_id, void_reason, voided_by,"
            " request_id, customer_id, service, units, price_per_unit, occurred_at, late,"
            f" bill_id, reported_by_id) SELECT %s, %s, %s, %s, {_columns(9)} FROM json_each(%s)"
            # Not ON CONFLICT: a guard refuses a key that exists before SQLite looks for conflicts.
            " WHERE NOT EXISTS (SELECT 1 FROM usage_usagerecord record"
            " WHERE record.request_id = value ->> 0) RETURNING request_id",
            [
                _text(records[0][0].recorded_at),
                voiding and voiding.record_id,
                voiding.reason if voiding else "",
                voiding.by if voiding else "",
                json.dumps(rows),
            ],
        )
        return {request_id for (request_id,) in self.cursor.fetchall()}

    def add_to_daily_usage(self, additions: Sequence[DailyAddition]) -> None:
        """Add the units and records of new records to daily usage.

        Raises DailyUsageOverflow if a sum exceeds 64 bits. Nothing was added then.
        """
        rows = [
            (
                *addition[:3],
                _scaled(addition.price_per_unit, _PRICE_PLACES),
                addition.day.isoformat(),
                addition.slot,
                _scaled(addition.units, _UNITS_PLACES),
                addition.records,
            )
            for addition in additions
        ]
        try:
            self.cursor.execute(
                "INSERT INTO usage_dailyusage (customer_id, bill_id, service, price_per_unit,"
                # Without its WHERE, SQLite would take what follows for a condition of a join.
                f" day, slot, units, records) SELECT {_columns(8)} FROM json_each(%s) WHERE true"
                " ON CONFLICT (bill_id, service, price_per_unit, day, slot) DO UPDATE SET"
                " units = usage_dailyusage.units + excluded.units,"
                " records = usage_dailyusage.records + excluded.records",
                [json.dumps(rows)],
            )
        except IntegrityError as error:
            # A number beyond 64 bits is a float in SQLite, which the column's CHECK refuses.
            cause = error.__cause__
            if (
                isinstance(cause, sqlite3.Error)
                and cause.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_CHECK
            ):
                raise DailyUsageOverflow from error
            raise

    def stored(self, request_ids: Iterable[str]) -> dict[str, StoredRecord]:
        self.cursor.execute(
            "SELECT record.request_id, record.customer_id, record.service, record.units,"
            " record.price_per_unit, record.occurred_at || '', record.recorded_at || '',"
            " record.late, record.bill_id, bill.month || ''"
            " FROM usage_usagerecord record JOIN usage_bill bill ON bill.id = record.bill_id"
            " WHERE record.request_id IN (SELECT value FROM json_each(%s))",
            [json.dumps(list(request_ids))],
        )
        return {
            request_id: StoredRecord(
                request_id,
                customer_id,
                service,
                Decimal(units).scaleb(-_UNITS_PLACES),
                Decimal(price).scaleb(-_PRICE_PLACES),
                _utc(occurred_at),
                _utc(recorded_at),
                bool(late),
                bill_id,
                _date(month),
            )
            for (
                request_id, customer_id, service, units, price,
                occurred_at, recorded_at, late, bill_id, month,
            ) in self.cursor.fetchall()
        }  # fmt: skip


@cache
def _columns(number: int) -> str:
    """Return SQL for the values of a row from json_each, which has the row as an array."""
    return ", ".join(f"value ->> {place}" for place in range(number))


# The records of a batch share most of their values.


@lru_cache(maxsize=1024)
def _scaled(number: Decimal, places: int) -> int:
    return int(EXACT.scaleb(number, places))


@lru_cache(maxsize=64)
def _utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@lru_cache(maxsize=64)
def _text(value: dt.datetime) -> str:
    return str(value.astimezone(dt.UTC).replace(tzinfo=None))


_date = lru_cache(maxsize=64)(dt.date.fromisoformat)
