"""Databases of their own for tests whose transactions are real, and a check of their contents.

The check reads the tables with the bare drivers and adds up by itself: no code of the service
takes part in it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import os
import shutil
import sqlite3
import tempfile
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from decimal import ROUND_HALF_UP, Context, Decimal
from io import StringIO
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg2
from django.core.management import call_command
from django.db import connections

from billing_project.settings import database
from usage.models import ApiKey, Customer

CUSTOMERS = range(1, 301)
_WIDE = Context(prec=80)
_SCALES = {"units": 6, "price_per_unit": 12, "closed_total": 4}


class Books(NamedTuple):
    """A migrated database with customers and a live API key; `url` is its DATABASE_URL."""

    url: str
    key: str

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    @property
    def path(self) -> str:
        """The SQLite file, or the database's name."""
        return (
            self.url.removeprefix("sqlite:///") if self.is_sqlite else urlsplit(self.url).path[1:]
        )

    def connect(self) -> Any:
        """Return a bare connection, on which each statement commits by itself."""
        if self.is_sqlite:
            return sqlite3.connect(self.path, isolation_level=None, timeout=30)
        connection = psycopg2.connect(self.url)
        connection.autocommit = True
        return connection

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return what one statement, on a connection of its own, brings."""
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall())

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return a table's rows with exact decimals, aware times and plain dates."""
        return self.tables(name)[0]

    def tables(self, *names: str) -> list[list[dict[str, Any]]]:
        """Return the rows of several tables at one instant, even while requests are recorded."""
        begin = "BEGIN" if self.is_sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(begin)
            return [self._read(cursor, name) for name in names]

    def _read(self, cursor: Any, table: str) -> list[dict[str, Any]]:
        cursor.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        read = _of_sqlite if self.is_sqlite else _of_postgresql
        return [
            {key: read(key, value) for key, value in zip(names, row, strict=True)}
            for row in cursor.fetchall()
        ]


def _of_sqlite(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _SCALES:
        return Decimal(value).scaleb(-_SCALES[name], context=_WIDE)
    if name in {"month", "day"}:
        return dt.date.fromisoformat(value)
    if name.endswith(("_at", "_start", "_end")):
        return dt.datetime.fromisoformat(value).replace(tzinfo=dt.UTC)
    return value


def _of_postgresql(name: str, value: Any) -> Any:
    return value.astimezone(dt.UTC) if isinstance(value, dt.datetime) else value


# Making, copying and dropping


@contextlib.contextmanager
def new_books() -> Iterator[Books]:
    """A database to copy from: migrated, with its customers and a key."""
    with empty_database() as url:
        yield filled(url)


def filled(url: str) -> Books:
    """Migrate a database, if it is not yet, and add the customers and a key."""
    with default_database(url):
        call_command("migrate", verbosity=0)
        Customer.objects.bulk_create(Customer(id=id_, name=f"No. {id_}") for id_ in CUSTOMERS)
        _, key = ApiKey.objects.issue(name="live tests")
    # It is copied while nothing is connected: a file without its write-ahead log, for one.
    return Books(url, key)


@contextlib.contextmanager
def copied(books: Books) -> Iterator[Books]:
    """A copy of a database without connections."""
    if books.is_sqlite:
        with empty_database() as url:
            copy = books._replace(url=url)
            shutil.copyfile(books.path, copy.path)
            yield copy
        return
    with empty_database(template=books.path) as url:
        yield books._replace(url=url)


@contextlib.contextmanager
def empty_database(template: str = "template1") -> Iterator[str]:
    """The DATABASE_URL of a new database without a table."""
    given = os.environ["DATABASE_URL"]
    if given.startswith("sqlite"):
        with tempfile.TemporaryDirectory(prefix="books-") as folder:
            yield f"sqlite:///{folder}/books.sqlite3"
        return
    name = f"books_{uuid.uuid4().hex[:12]}"
    url = create_database(name, template)
    try:
        yield url
    finally:
        drop_database(name)


def create_database(name: str, template: str = "template1") -> str:
    """Create one on the PostgreSQL server of this run, and return its DATABASE_URL."""
    with contextlib.closing(Books(os.environ["DATABASE_URL"], "").connect()) as connection:
        # Copying the files takes a fifth of the time of copying each page through the log. Before
        # version 15 there is no other way.
        strategy = "STRATEGY file_copy" if connection.server_version >= 150_000 else ""
        connection.cursor().execute(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}")
    return database_url(name)


def database_url(name: str) -> str:
    """Return the DATABASE_URL of a database on the PostgreSQL server of this run."""
    return urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()


def drop_database(name: str) -> None:
    with contextlib.closing(Books(os.environ["DATABASE_URL"], "").connect()) as connection:
        connection.cursor().execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def wait_for_waiter(books: Books, lock: str) -> None:
    """Return once a transaction on these books waits for a lock of this kind.

    Not one of other tests, which may have the same server. SQLite, which has one writer, does not
    tell.
    """
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        f" AND wait_event_type = 'Lock' AND wait_event = '{lock}'"
    )
    for _ in range(10_000):
        if books.is_sqlite or books.rows(waiting) != [(0,)]:
            return
    raise AssertionError("Nobody waits.")


@contextlib.contextmanager
def default_database(url: str, **options: Any) -> Iterator[None]:
    """Let the ORM, in every thread of this process, work on that database instead of its own."""
    own, own_settings = connections["default"], connections.settings["default"]
    new = database(url)
    new["OPTIONS"] = new["OPTIONS"] | options
    connections.settings["default"] = connections.configure_settings({"default": new})["default"]
    del connections["default"]
    try:
        yield
    finally:
        connections["default"].close()
        connections.settings["default"] = own_settings
        connections["default"] = own


# Checking


def verify_bills(books: Books) -> None:
    """Let the service's own verification look too; raises CommandError if it finds anything."""
    with default_database(books.url):
        call_command("verify_bills", stdout=StringIO())


def assert_books_balance(
    books: Books,
    *,
    of: Collection[int] = CUSTOMERS,
    answered: Iterable[dict[str, Any]] | None = None,
) -> None:
    """Assert that these customers' bills, records and daily usage agree to the last digit.

    If `answered` is given, the answers of all recorded facts, exactly these are stored.
    """
    bills_of_all, records, daily = (
        [row for row in rows if row["customer_id"] in of]
        for rows in books.tables("usage_bill", "usage_usagerecord", "usage_dailyusage")
    )
    bills = {bill["id"]: bill for bill in bills_of_all}
    _assert_sums(bills, records, daily)
    _assert_periods(bills.values())
    _assert_places(bills, records)
    _assert_closed(bills, records)
    if answered is not None:
        stored = {record["request_id"]: _document(record, bills) for record in records}
        assert stored == {document["request_id"]: document for document in answered}


def _assert_sums(
    bills: dict[int, dict[str, Any]], records: list[dict[str, Any]], daily: list[dict[str, Any]]
) -> None:
    assert all(row["customer_id"] == bills[row["bill_id"]]["customer_id"] for row in records)
    assert all(row["customer_id"] == bills[row["bill_id"]]["customer_id"] for row in daily)
    recomputed: Counter[Any] = Counter()
    units: dict[Any, Decimal] = defaultdict(Decimal)
    for record in records:
        key = _key(record, record["occurred_at"].date())
        recomputed[key] += 1
        units[key] = _WIDE.add(units[key], record["units"])
    daily_records: Counter[Any] = Counter()
    daily_units: dict[Any, Decimal] = defaultdict(Decimal)
    for row in daily:
        key = _key(row, row["day"])
        daily_records[key] += row["records"]
        daily_units[key] = _WIDE.add(daily_units[key], row["units"])
    assert daily_records == recomputed
    assert daily_units == units
    assert {record["bill_id"] for record in records} == set(bills)  # no bill is empty


def _key(row: dict[str, Any], day: dt.date) -> tuple[Any, ...]:
    return row["bill_id"], row["service"], row["price_per_unit"], day


def _assert_periods(bills: Iterable[dict[str, Any]]) -> None:
    by_customer: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for bill in bills:
        by_customer[bill["customer_id"]].append(bill)
    for own in by_customer.values():
        own.sort(key=lambda bill: bill["period_start"])
        for earlier, later in itertools.pairwise(own):
            assert earlier["period_end"] <= later["period_start"]
        open_months = [bill["month"] for bill in own if bill["closed_at"] is None]
        assert len(open_months) == len(set(open_months))


def _assert_places(bills: dict[int, dict[str, Any]], records: list[dict[str, Any]]) -> None:
    by_id = {record["request_id"]: record for record in records}
    for record in records:
        bill = bills[record["bill_id"]]
        month = bill["month"]
        begins = dt.datetime(month.year, month.month, 1, tzinfo=dt.UTC)
        ends = (begins + dt.timedelta(days=32)).replace(day=1)
        assert begins <= bill["period_start"] < bill["period_end"] <= ends
        assert bool(record["late"]) == (record["occurred_at"] < bill["period_start"])
        assert record["occurred_at"] < ends
        assert record["recorded_at"] >= begins - dt.timedelta(minutes=5)
        if record["voids_id"] is not None:
            voided = by_id[record["voids_id"]]
            assert record["request_id"] == f"void {voided['request_id']}"
            assert record["units"] == -voided["units"]
            for kept in ("customer_id", "service", "price_per_unit", "occurred_at"):
                assert record[kept] == voided[kept]


def _assert_closed(bills: dict[int, dict[str, Any]], records: list[dict[str, Any]]) -> None:
    lines: dict[int, dict[Any, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for record in records:
        line = record["service"], record["price_per_unit"]
        units = lines[record["bill_id"]]
        units[line] = _WIDE.add(units[line], record["units"])
        closed_at = bills[record["bill_id"]]["closed_at"]
        assert closed_at is None or record["recorded_at"] <= closed_at
    for bill in bills.values():
        if bill["closed_at"] is not None:
            amounts = [
                _WIDE.multiply(units, price).quantize(Decimal("0.01"), ROUND_HALF_UP, _WIDE)
                for (_, price), units in lines[bill["id"]].items()
            ]
            assert bill["closed_total"] == sum(amounts)


def _document(record: dict[str, Any], bills: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """A stored record as the contract says that it is answered."""
    units, price = record["units"], record["price_per_unit"]
    return {
        "request_id": record["request_id"],
        "customer_id": record["customer_id"],
        "service": record["service"],
        "units_consumed": _plain(units),
        "price_per_unit": _plain(price),
        "amount": _plain(_WIDE.multiply(units, price)),
        "occurred_at": _rfc3339(record["occurred_at"]),
        "recorded_at": _rfc3339(record["recorded_at"]),
        "bill": {"id": record["bill_id"], "month": f"{bills[record['bill_id']]['month']:%Y-%m}"},
        "late": bool(record["late"]),
    }


def _plain(number: Decimal) -> str:
    return f"{number:f}".rstrip("0").rstrip(".") if number % 1 else f"{number:.0f}"


def _rfc3339(instant: dt.datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%S}.{instant.microsecond // 1000:03}Z"
