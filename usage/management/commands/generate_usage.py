"""Fills a database with usage as it might have been reported, for trying out and measuring."""

from __future__ import annotations

import datetime as dt
import io
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import islice
from random import Random
from typing import Any, NamedTuple

from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper
from django.db import IntegrityError, connection, transaction

from usage.database.transactions import database_now, enter_gate, lift_statement_timeout
from usage.ledger.statements import Fold, NewBill, statements, worker_slot
from usage.models import Bill, Customer, UsageRecord
from usage.periods import day_of, month_bounds, month_of, previous_month

# What customers of a cloud buy: price, and most thousandths of units a record. The likelier first.
_SERVICES = (
    ("Linux Instance", Decimal("0.15"), 24_000),
    ("Object Storage", Decimal("0.023"), 5_000_000),
    ("Outgoing Traffic", Decimal("0.000087"), 90_000_000),
    ("Load Balancer", Decimal("0.03"), 24_000),
    ("CDN Storage", Decimal("0.02"), 900_000),
    ("Database Hosting", Decimal("0.05"), 24_000),
    ("GPU Instance", Decimal("2.48"), 24_000),
    ("Domain Name Registration", Decimal("14.99"), 1_000),
)
_SHARES = (30, 20, 18, 10, 8, 8, 4, 2)
_HUNDRED = [
    service for service, share in zip(_SERVICES, _SHARES, strict=True) for _ in range(share)
]
_RECORDS_AT_ONCE = 50_000
_PLAIN = (False, None, "", "")  # neither late nor a void
_QUARTER_HOUR = 900_000  # milliseconds
_CUSTOMERS_AT_ONCE = 1000
_COLUMNS = (
    "request_id, customer_id, bill_id, service, units, price_per_unit, occurred_at, recorded_at,"
    " late, voids_id, void_reason, voided_by"
)


class Share(NamedTuple):
    """How many records a customer's bill of a month gets; `first` is the number of the first."""

    month: dt.date
    customer_id: int
    first: int
    records: int


class Command(BaseCommand):
    """Loads records and their daily usage, transaction by transaction; the guards stand."""

    help = (
        "Makes up usage on open bills, the same for the same --seed, spread evenly over customers"
        " and the last months. It is there to stay: records are never deleted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--customers", type=int, default=100, help="added if missing")
        parser.add_argument("--records", type=int, default=10_000)
        parser.add_argument("--months", type=int, default=3, help="the current one included; to 12")
        parser.add_argument("--first-customer", type=int, default=1, metavar="ID")
        parser.add_argument("--seed", default="usage", help="another one makes other records")

    def handle(self, *, customers: int, records: int, months: int, **options: Any) -> None:
        if min(customers, records, months, options["first_customer"]) < 1 or months > 12:
            raise CommandError("Give numbers of at least 1, and at most 12 months.")
        now = database_now()
        ids = range(options["first_customer"], options["first_customer"] + customers)
        _add_customers(ids)
        owners = [owner for month in _last(months, now) for owner in _owners(month, ids)]
        if not owners:
            raise CommandError("All bills of these customers and months are closed: choose others.")
        progress = _Progress(self.stderr, records)
        for shares in _at_once(_shares(owners, records)):
            try:
                _load(shares, now, records, options["seed"])
            except IntegrityError as error:
                raise CommandError(
                    f"Some of this is stored already, choose another --seed: {error}"
                ) from error
            progress.advance(sum(share.records for share in shares))
        bills = min(records, len(owners))
        self.stdout.write(f"{records:,} records on {bills:,} bills.")


def _add_customers(ids: range) -> None:
    Customer.objects.bulk_create(
        (Customer(id=id_, name=f"Customer {id_}") for id_ in ids),
        batch_size=_CUSTOMERS_AT_ONCE,
        ignore_conflicts=True,
    )


def _last(months: int, now: dt.datetime) -> list[dt.date]:
    """Return so many months up to the one of `now`, the earliest first."""
    last = [month_of(now)]
    while len(last) < months:
        last.append(previous_month(last[-1]))
    return last[::-1]


def _owners(month: dt.date, ids: range) -> list[tuple[dt.date, int]]:
    """Return the month with each customer whose bill for it is open, or not opened yet."""
    bills = Bill.objects.filter(month=month, customer__gte=ids.start, customer__lt=ids.stop)
    known, still_open = (
        set(some.order_by().values_list("customer", flat=True)) for some in (bills, bills.open())
    )
    return [(month, id_) for id_ in ids if id_ in still_open or id_ not in known]


def _shares(owners: list[tuple[dt.date, int]], records: int) -> Iterator[Share]:
    for place, owner in enumerate(owners):
        first, after = (records * edge // len(owners) for edge in (place, place + 1))
        for start in range(first, after, _RECORDS_AT_ONCE):
            yield Share(*owner, start, min(_RECORDS_AT_ONCE, after - start))


def _at_once(shares: Iterable[Share]) -> Iterator[list[Share]]:
    """Yield shares by transactions."""
    some: list[Share] = []
    for share in shares:
        if sum(other.records for other in some) + share.records > _RECORDS_AT_ONCE:
            yield some
            some = []
        some.append(share)
    if some:
        yield some


class _Part:
    """The records of one share, made up: as rows to load, and as what they add to daily usage."""

    def __init__(
        self, share: Share, bill: Bill, now: dt.datetime, all_records: int, seed: str
    ) -> None:
        self.bill = bill
        self.first, self.records, self.all = share.first, share.records, all_records
        self.dice = Random(f"{seed}/{bill.customer_id}/{bill.month}/{share.first}")  # noqa: S311
        self.start = _milliseconds(bill.period_start)
        self.length = max(1, _milliseconds(min(bill.period_end, now)) - self.start)
        self.sums: dict[tuple[str, Decimal, dt.date], list[int]] = defaultdict(lambda: [0, 0])

    def rows(self) -> Iterator[tuple[str, str, int, Decimal, str]]:
        """Yield request id, service, thousandths of units, price and time in UTC."""
        random, bits = self.dice.random, self.dice.getrandbits
        days: dict[int, dt.date] = {}
        for number in range(self.first, self.first + self.records):
            service, price, most = _HUNDRED[int(random() * 100)]
            units = 1 + int(random() * most)
            milliseconds = self.start + int(random() * self.length)
            occurred_at = dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
            quarter = milliseconds // _QUARTER_HOUR  # in which no day ends, in no time zone
            day = days.get(quarter) or days.setdefault(quarter, day_of(occurred_at))
            total = self.sums[service, price, day]
            total[0] += units
            total[1] += 1
            # Spread over all ids like uuid4, but in order, which loads several times faster.
            request_id = f"{(number << 32) // self.all:08x}-{bits(64):016x}"
            yield request_id, service, units, price, occurred_at.replace(tzinfo=None).isoformat(" ")

    def folds(self) -> Iterator[Fold]:
        """Yield what the rows add to daily usage, once they are made."""
        slot = worker_slot()
        for (service, price, day), (units, records) in self.sums.items():
            exact = Decimal(units).scaleb(-3)
            key = self.bill.customer_id, self.bill.pk, service, price, day, slot
            yield Fold(*key, exact, records)


def _milliseconds(instant: dt.datetime) -> int:
    return int(instant.timestamp() * 1000)


def _load(shares: list[Share], now: dt.datetime, all_records: int, seed: str) -> None:
    """Store the records and the daily usage of some bills, in one transaction that opens those."""
    insert = _copy if connection.vendor == "postgresql" else _insert_many
    with transaction.atomic():
        lift_statement_timeout()
        enter_gate([share.customer_id for share in shares])
        bills = _open_bills(shares)
        parts = [_Part(share, bills[share[:2]], now, all_records, seed) for share in shares]
        insert(parts)
        folds = [fold for part in parts for fold in part.folds()]
        statements(connection).fold(sorted(folds, key=lambda fold: fold.key))


def _open_bills(shares: list[Share]) -> dict[tuple[dt.date, int], Bill]:
    """Return the open bills of these months and customers, opened where there was none."""
    found: dict[tuple[dt.date, int], Bill] = {}
    customers: dict[dt.date, list[int]] = defaultdict(list)
    for share in shares:
        customers[share.month].append(share.customer_id)
    for month, of_month in customers.items():
        remaining = iter(sorted(of_month))
        while ids := list(islice(remaining, _CUSTOMERS_AT_ONCE)):
            bills = Bill.objects.filter(month=month, customer__in=ids)
            known = set(bills.order_by().values_list("customer", flat=True))
            missing = [NewBill(id_, month, *month_bounds(month)) for id_ in ids if id_ not in known]
            if missing:
                statements(connection).open_bills(missing)
            found |= {(month, bill.customer_id): bill for bill in bills.open()}
    if closed := [share for share in shares if share[:2] not in found]:
        raise CommandError(
            f"The bill of customer {closed[0].customer_id} for {closed[0].month:%Y-%m} was closed"
            " meanwhile: run the command again."
        )
    return found


def _copy(parts: list[_Part]) -> None:
    text = io.StringIO()
    for part in parts:
        of_bill = f"{part.bill.customer_id}\t{part.bill.pk}"
        for request_id, service, units, price, at in part.rows():
            amount = f"{units // 1000}.{units % 1000:03d}\t{price}"
            text.write(f"{request_id}\t{of_bill}\t{service}\t{amount}\t{at}Z\t{at}Z\tf\t\\N\t\t\n")
    text.seek(0)
    with connection.wrap_database_errors, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY usage_usagerecord ({_COLUMNS}) FROM STDIN", text)


def _insert_many(parts: list[_Part]) -> None:
    scaled = UsageRecord._meta.get_field("price_per_unit").scaled
    prices = {price: scaled(price) for _, price, _ in _SERVICES}
    places = ", ".join(["%s"] * 12)
    sql = f"INSERT INTO usage_usagerecord ({_COLUMNS}) VALUES ({places})"  # noqa: S608 - constants
    with connection.cursor() as cursor:
        for part in parts:
            of_bill = part.bill.customer_id, part.bill.pk
            rows = [
                (row[0], *of_bill, row[1], row[2] * 1000, prices[row[3]], row[4], row[4], *_PLAIN)
                for row in part.rows()
            ]
            cursor.executemany(sql, rows)


class _Progress:
    """A bar on a terminal, which shows how far it is and how fast it goes."""

    def __init__(self, out: OutputWrapper, whole: int) -> None:
        self.out = out
        self.whole = whole
        self.done = 0
        self.began = time.monotonic()

    def advance(self, records: int) -> None:
        self.done += records
        if self.out.isatty():
            rate = self.done / max(0.001, time.monotonic() - self.began)
            bar = "#" * (30 * self.done // self.whole)
            end = "\n" if self.done == self.whole else ""
            self.out.write(
                f"\r[{bar:<30}] {self.done:,} of {self.whole:,} records, {rate:,.0f} a second",
                ending=end,
            )
