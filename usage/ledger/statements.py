"""The SQL of the write path: a fixed number of statements, however many records."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from usage.database import prepared
from usage.database.transactions import NOW, instant
from usage.ledger.facts import StoredRecord
from usage.models import DailyUsage, UsageRecord
from usage.models.daily_usage import SLOTS

# Every month that may be open to usage began within this, beside the days of grace.
_TWO_MONTHS_IN_DAYS = 62
# Tables may have grown since, so that another plan is better.
_PLANNED_SECONDS = 10.0
_SQLITE_CONSTRAINT_CHECK = 275


class FoldOverflow(Exception):
    """Daily usage would exceed what the database can hold exactly."""


class BillRow(NamedTuple):
    """A bill as the write path needs it; instants in UTC."""

    id: int
    month: dt.date
    period_start: dt.datetime
    period_end: dt.datetime
    is_open: bool


class NewBill(NamedTuple):
    """A bill to be opened; instants in UTC."""

    customer_id: int
    month: dt.date
    period_start: dt.datetime
    period_end: dt.datetime


class Void(NamedTuple):
    """What a record says of itself that cancels another; `Void()` of one that does not."""

    voids_id: str | None = None
    reason: str = ""
    voided_by: str = ""


class Fold(NamedTuple):
    """What new records add to one row of daily usage."""

    customer_id: int
    bill_id: int
    service: str
    price_per_unit: Decimal
    day: dt.date
    slot: int
    units: Decimal
    records: int

    @property
    def key(self) -> tuple[Any, ...]:
        return self[1:6]


# The most units that a row of daily usage can hold on SQLite, in 64 bits.
MOST_UNITS = Decimal(2**63 - 1).scaleb(-6)


def worker_slot() -> int:
    """Return the slot of daily usage that this process adds to."""
    return os.getpid() % SLOTS


class Statements:
    """The statements in PostgreSQL's words; `SQLiteStatements` says them in SQLite's."""

    asked = "unnest(%s::bigint[]) AS asked(id)"
    recent = "bill.month >= {now}::date - %s::int"
    among = "= ANY(%s::text[])"
    lock_customers = "ORDER BY missing.customer_id FOR KEY SHARE OF customer"
    instant = "%s::timestamptz"
    text = "%s::text"
    bill_columns = "bill.id, bill.month, bill.period_start, bill.period_end"
    record_columns = (
        "record.request_id, record.customer_id, record.service, record.units,"
        " record.price_per_unit, record.occurred_at, record.recorded_at, record.late,"
        " record.bill_id, bill.month"
    )

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection

    def accounts(
        self, customer_ids: Collection[int]
    ) -> tuple[dt.datetime, dict[int, list[BillRow]]]:
        """Return the database's clock, and each known customer's bills that matter now."""
        now = NOW[self.connection.vendor]
        with self.connection.cursor() as cursor:
            self._execute(
                cursor,
                "usage_accounts",
                f"SELECT {now}, customer.id, bill.closed_at IS NULL, {self.bill_columns}"
                f" FROM {self.asked}"
                " LEFT JOIN usage_customer customer ON customer.id = asked.id"
                " LEFT JOIN usage_bill bill ON bill.customer_id = customer.id"
                f" AND (bill.closed_at IS NULL OR {self.recent.format(now=now)})",
                [self._list(customer_ids), _TWO_MONTHS_IN_DAYS + settings.BILLING_GRACE_DAYS],
                seconds=_PLANNED_SECONDS,
            )
            rows = cursor.fetchall()
        accounts: dict[int, list[BillRow]] = {}
        for _, customer_id, is_open, bill_id, *period in rows:
            if customer_id is not None:
                bills = accounts.setdefault(customer_id, [])
                if bill_id is not None:
                    bills.append(BillRow(bill_id, *self._period(*period), bool(is_open)))
        return instant(rows[0][0]), accounts

    def open_bills(self, bills: Sequence[NewBill]) -> set[int]:
        """Open those bills that are still missing; return their ids."""
        source, params = self._table(bills, "bigint date timestamptz timestamptz")
        rows = self._rows(
            f"WITH missing (customer_id, month, period_start, period_end) AS ({source})"
            " INSERT INTO usage_bill (customer_id, month, period_start, period_end, currency)"
            " SELECT missing.*, customer.currency FROM missing"
            " JOIN usage_customer customer ON customer.id = missing.customer_id"
            f" WHERE true {self.lock_customers} ON CONFLICT DO NOTHING RETURNING id",
            params,
        )
        return {bill_id for (bill_id,) in rows}

    def insert_records(
        self, records: Sequence[tuple[StoredRecord, int | None]], void: Void
    ) -> set[str]:
        """Insert those records whose ids are new, each with the key it came by; return their ids.

        All of them were recorded at the same instant.
        """
        table, params = self._table(
            [(*record[:6], *record[7:9], reported_by_id) for record, reported_by_id in records],
            "text bigint text units price timestamptz bool bigint bigint",
        )
        constants = [self._instant(records[0][0].recorded_at), *void]
        with self.connection.cursor() as cursor:
            self._execute(
                cursor,
                "usage_insert_records",
                "INSERT INTO usage_usagerecord (recorded_at, voids_id, void_reason, voided_by,"
                " request_id, customer_id, service, units, price_per_unit, occurred_at, late,"
                " bill_id, reported_by_id)"
                f" SELECT {self.instant}, {self.text}, {self.text}, {self.text}, given.*"
                f" FROM ({table}) AS given WHERE true"  # or SQLite takes ON for that of a join
                " ON CONFLICT (request_id) DO NOTHING RETURNING request_id",
                [*constants, *params],
            )
            return {request_id for (request_id,) in cursor.fetchall()}

    def fold(self, folds: Sequence[Fold]) -> None:
        """Add what was inserted to daily usage; raises FoldOverflow on SQLite."""
        table, params = self._table(folds, "bigint bigint text price date int units bigint")
        with self.connection.cursor() as cursor:
            self._execute(
                cursor,
                "usage_fold",
                "INSERT INTO usage_dailyusage (customer_id, bill_id, service, price_per_unit,"
                f" day, slot, units, records) {table}"
                " ON CONFLICT (bill_id, service, price_per_unit, day, slot) DO UPDATE SET"
                " units = usage_dailyusage.units + excluded.units,"
                " records = usage_dailyusage.records + excluded.records",
                params,
            )

    def stored(self, request_ids: Collection[str]) -> dict[str, StoredRecord]:
        """Return the records with these ids, by id."""
        rows = self._rows(
            f"SELECT {self.record_columns} FROM usage_usagerecord record"
            " JOIN usage_bill bill ON bill.id = record.bill_id"
            f" WHERE record.request_id {self.among}",
            [self._list(request_ids)],
        )
        return {row[0]: self._record(row) for row in rows}

    def _rows(self, sql: str, params: Sequence[Any]) -> list[Any]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return list(cursor.fetchall())

    def _execute(
        self,
        cursor: CursorWrapper,
        name: str,
        sql: str,
        params: Sequence[Any],
        *,
        seconds: float = math.inf,
    ) -> None:
        prepared.execute(cursor, name, sql, params, seconds=seconds)

    def _list(self, values: Collection[Any]) -> Any:
        return _array(values, "text")

    def _instant(self, value: dt.datetime) -> Any:
        return value

    def _table(self, rows: Sequence[Sequence[Any]], types: str) -> tuple[str, Sequence[Any]]:
        arrays = ", ".join(f"%s::{_POSTGRESQL_TYPES.get(name, name)}[]" for name in types.split())
        return f"SELECT * FROM unnest({arrays})", [
            _array(column, name)
            for column, name in zip(zip(*rows, strict=True), types.split(), strict=True)
        ]

    def _period(self, *period: Any) -> tuple[dt.date, dt.datetime, dt.datetime]:
        month, start, end = period
        return month, start, end

    def _record(self, row: Sequence[Any]) -> StoredRecord:
        return StoredRecord(*row)


def _array(values: Iterable[Any], type_name: str) -> str:
    """Return the text of an array: PostgreSQL reads it at once, psycopg2's ARRAY[…] bit by bit.

    It has one value or more.
    """
    if type_name == "text":
        # No text here has a control character, so all of them are quoted in one go.
        text = _BETWEEN.join(map(str, values)).replace("\\", "\\\\").replace('"', '\\"')
        return f'{{"{text.replace(_BETWEEN, _QUOTED_COMMA)}"}}'
    text_of = _time_text if type_name in _TIMES else str
    return "{" + ",".join(map(text_of, values)).replace("None", "NULL") + "}"


_BETWEEN, _QUOTED_COMMA = "\x1f", '","'
_TIMES = frozenset({"timestamptz", "date"})
_time_text = lru_cache(maxsize=64)(str)  # the records of a batch share most of theirs
_POSTGRESQL_TYPES = {"units": "numeric", "price": "numeric"}
_UNITS = UsageRecord._meta.get_field("units")
_PRICE = UsageRecord._meta.get_field("price_per_unit")
_DAILY_UNITS = DailyUsage._meta.get_field("units")


class SQLiteStatements(Statements):
    """Times are text in UTC, decimals scaled integers, and there are no arrays."""

    asked = "(SELECT value AS id FROM json_each(%s)) AS asked"
    recent = "bill.month >= date({now}, '-' || %s || ' days')"
    among = "IN (SELECT value FROM json_each(%s))"
    lock_customers = ""
    instant = "%s"
    text = "%s"
    # Without a declared type Django's converters leave the text alone.
    bill_columns = "bill.id, bill.month || '', bill.period_start || '', bill.period_end || ''"
    record_columns = (
        "record.request_id, record.customer_id, record.service, record.units,"
        " record.price_per_unit, record.occurred_at || '', record.recorded_at || '', record.late,"
        " record.bill_id, bill.month || ''"
    )

    def fold(self, folds: Sequence[Fold]) -> None:
        try:
            super().fold(folds)
        except IntegrityError as error:
            if getattr(error.__cause__, "sqlite_errorcode", None) == _SQLITE_CONSTRAINT_CHECK:
                raise FoldOverflow from error
            raise
        except ValidationError as error:  # what one request adds is too much by itself
            raise FoldOverflow from error

    def units(self, folds: Sequence[Fold]) -> dict[tuple[Any, ...], Decimal]:
        """Return the units that these rows of daily usage have now, by key."""
        keys, params = self._table([fold.key for fold in folds], "bigint text price date int")
        rows = self._rows(
            "SELECT bill_id, service, price_per_unit, day || '', slot, units"
            " FROM usage_dailyusage"
            f" WHERE (bill_id, service, price_per_unit, day, slot) IN ({keys})",
            params,
        )
        return {
            (bill_id, service, _PRICE.unscaled(price), dt.date.fromisoformat(day), slot): (
                _DAILY_UNITS.unscaled(units)
            )
            for bill_id, service, price, day, slot, units in rows
        }

    def _execute(
        self,
        cursor: CursorWrapper,
        name: str,
        sql: str,
        params: Sequence[Any],
        *,
        seconds: float = math.inf,
    ) -> None:
        cursor.execute(sql, params)

    def _list(self, values: Collection[Any]) -> Any:
        return json.dumps(list(values))

    def _instant(self, value: dt.datetime) -> Any:
        return _text(value)

    def _table(self, rows: Sequence[Sequence[Any]], types: str) -> tuple[str, Sequence[Any]]:
        adapters = [_SQLITE_ADAPTERS.get(name) for name in types.split()]
        places = f"({', '.join(['%s'] * len(adapters))})"
        params = [
            value if adapt is None or value is None else adapt(value)
            for row in rows
            for value, adapt in zip(row, adapters, strict=True)
        ]
        return f"VALUES {', '.join([places] * len(rows))}", params

    def _period(self, *period: Any) -> tuple[dt.date, dt.datetime, dt.datetime]:
        month, start, end = period
        return dt.date.fromisoformat(month), _utc(start), _utc(end)

    def _record(self, row: Sequence[Any]) -> StoredRecord:
        request_id, customer_id, service, *numbers, late, bill_id, month = row
        units, price, occurred_at, recorded_at = numbers
        return StoredRecord(
            request_id,
            customer_id,
            service,
            _UNITS.unscaled(units),
            _PRICE.unscaled(price),
            _utc(occurred_at),
            _utc(recorded_at),
            bool(late),
            bill_id,
            dt.date.fromisoformat(month),
        )


def _utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def _text(value: dt.datetime) -> str:
    return str(value.astimezone(dt.UTC).replace(tzinfo=None))


_SQLITE_ADAPTERS: dict[str, Callable[[Any], Any]] = {
    "timestamptz": _text,
    "date": dt.date.isoformat,
    "units": _DAILY_UNITS.scaled,
    "price": _PRICE.scaled,
}


def statements(connection: BaseDatabaseWrapper) -> Statements:
    """Return the statements for the engine of a connection."""
    return (SQLiteStatements if connection.vendor == "sqlite" else Statements)(connection)
