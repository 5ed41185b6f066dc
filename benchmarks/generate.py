"""Makes up usage for benchmarks, pictures and the demo: `python -m benchmarks.generate --help`.

It loads the database in DATABASE_URL. Give it one of its own: records can never be deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import io
import itertools
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING

import django
from django.db import connection, transaction
from psycopg2 import extensions

from usage.database.postgresql import waiting
from usage.database.transactions import database_now, lift_statement_timeout
from usage.periods import day_of, month_bounds, month_of, months_up_to

if TYPE_CHECKING:
    from usage.models import Bill

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
_QUARTER_HOUR = 900_000  # milliseconds
_RECORDS_AT_ONCE = 50_000
_ROWS_AT_ONCE = 1000
_SLOT = 0
_COLUMNS = (
    "request_id, customer_id, bill_id, service, units, price_per_unit, occurred_at, recorded_at,"
    " late, voids_id, void_reason, voided_by"
)
_PLAIN = (False, None, "", "")  # neither late nor a void


Row = tuple[str, str, int, Decimal, str]
Sums = dict[tuple[str, Decimal, dt.date], list[int]]


def generate(customers: range, *, records: int, months: int = 3, seed: str = "usage") -> None:
    """Add usage on new bills of these customers, spread evenly over the last months.

    The current month is one of them. Customers that are missing are added. The same seed makes the
    same records. Raises IntegrityError if one of the bills exists already.
    """
    from usage.models import Customer  # noqa: PLC0415 - after django.setup()

    now = database_now()
    Customer.objects.bulk_create(
        (Customer(id=id_, name=f"Customer {id_}") for id_ in customers),
        batch_size=_ROWS_AT_ONCE,
        ignore_conflicts=True,
    )
    dice = Random(f"{seed}/{customers.start}")  # noqa: S311 - nothing is kept secret by it
    first = 0
    for place, month in enumerate(months_up_to(month_of(now), months)[::-1], start=1):
        after = records * place // months
        with transaction.atomic():
            lift_statement_timeout()
            bills = _open_bills(month, customers[: after - first])
            for bill, numbers in zip(bills, _shares(range(first, after), len(bills)), strict=True):
                request_ids = _request_ids(numbers, records, dice)
                _load(bill, now, request_ids, len(numbers), dice)
        first = after


def _open_bills(month: dt.date, customers: range) -> list[Bill]:
    from usage.models import Bill, Customer  # noqa: PLC0415 - after django.setup()

    start, end = month_bounds(month)
    owners = Customer.objects.filter(id__gte=customers.start, id__lt=customers.stop)
    bills = [
        Bill(
            customer=owner, month=month, period_start=start, period_end=end, currency=owner.currency
        )
        for owner in owners.order_by("id")
    ]
    Bill.objects.bulk_create(bills, batch_size=_ROWS_AT_ONCE)
    return bills


def _shares(numbers: range, parts: int) -> Iterator[range]:
    edges = [len(numbers) * place // parts for place in range(parts + 1)]
    return (numbers[first:after] for first, after in itertools.pairwise(edges))


def _request_ids(numbers: range, records: int, dice: Random) -> Iterator[str]:
    """Yield ids spread like those of uuid4, but in order, which loads several times faster."""
    return (f"{(number << 32) // records:08x}-{dice.getrandbits(64):016x}" for number in numbers)


def _load(
    bill: Bill, now: dt.datetime, request_ids: Iterator[str], number: int, dice: Random
) -> None:
    """Store so many records with these ids on the bill, and its daily usage."""
    from usage.models import DailyUsage  # noqa: PLC0415 - after django.setup()

    insert = _copy if connection.vendor == "postgresql" else _insert_many
    sums: Sums = defaultdict(lambda: [0, 0])
    rows = _rows(bill, now, request_ids, dice, sums, number=number)
    while some := list(itertools.islice(rows, _RECORDS_AT_ONCE)):
        insert(bill, some)
    DailyUsage.objects.bulk_create(
        (
            DailyUsage(
                customer_id=bill.customer_id,
                bill=bill,
                service=service,
                price_per_unit=price,
                day=day,
                slot=_SLOT,
                units=Decimal(thousandths).scaleb(-3),
                records=records,
            )
            for (service, price, day), (thousandths, records) in sums.items()
        ),
        batch_size=_ROWS_AT_ONCE,
    )


def _rows(
    bill: Bill,
    now: dt.datetime,
    request_ids: Iterator[str],
    dice: Random,
    sums: Sums,
    *,
    number: int,
) -> Iterator[Row]:
    """Yield id, service, thousandths of units, price and time in UTC, and add them to the sums.

    In the order of time, in which usage is recorded: so the tables lie as the service writes them.
    """
    random = dice.random
    start = int(bill.period_start.timestamp() * 1000)
    length = max(1, int(min(bill.period_end, now).timestamp() * 1000) - start)
    days: dict[int, dt.date] = {}
    for place, request_id in enumerate(request_ids):
        service, price, most = _HUNDRED[int(random() * 100)]
        thousandths = 1 + int(random() * most)
        milliseconds = start + int((place + random()) / number * length)
        occurred_at = dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
        quarter = milliseconds // _QUARTER_HOUR  # in which no day ends, in no time zone
        day = days.get(quarter) or days.setdefault(quarter, day_of(occurred_at))
        total = sums[service, price, day]
        total[0] += thousandths
        total[1] += 1
        at = occurred_at.replace(tzinfo=None).isoformat(" ")
        yield request_id, service, thousandths, price, at


def _copy(bill: Bill, rows: list[Row]) -> None:
    text = io.StringIO()
    of_bill = f"{bill.customer_id}\t{bill.pk}"
    for request_id, service, units, price, at in rows:
        amount = f"{units // 1000}.{units % 1000:03d}\t{price}"
        text.write(f"{request_id}\t{of_bill}\t{service}\t{amount}\t{at}Z\t{at}Z\tf\t\\N\t\t\n")
    text.seek(0)
    with _without_limit(), connection.wrap_database_errors, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY usage_usagerecord ({_COLUMNS}) FROM STDIN", text)


@contextlib.contextmanager
def _without_limit() -> Iterator[None]:
    """Let psycopg2 wait by itself: COPY does not work while the service keeps the time for it."""
    extensions.set_wait_callback(None)
    try:
        yield
    finally:
        waiting.install()


def _insert_many(bill: Bill, rows: list[Row]) -> None:
    from usage.models import UsageRecord  # noqa: PLC0415 - after django.setup()

    as_stored = UsageRecord._meta.get_field("price_per_unit").get_db_prep_value
    prices = {price: as_stored(price, connection) for _, price, _ in _SERVICES}
    places = ", ".join(["%s"] * 12)
    of_bill = bill.customer_id, bill.pk
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO usage_usagerecord ({_COLUMNS}) VALUES ({places})",
            [
                (request_id, *of_bill, service, units * 1000, prices[price], at, at, *_PLAIN)
                for request_id, service, units, price, at in rows
            ],
        )


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{count} is not at least 1")
    return count


def main() -> None:
    """Load the database in DATABASE_URL."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=__doc__)
    parser.add_argument("--customers", type=_count, default=100, help="added if missing")
    parser.add_argument("--records", type=_count, default=10_000)
    parser.add_argument(
        "--months", type=int, default=3, choices=range(1, 13), help="the current one included"
    )
    parser.add_argument("--first-customer", type=_count, default=1, metavar="ID")
    parser.add_argument("--seed", default="usage", help="another one makes other records")
    given = parser.parse_args()
    if "DATABASE_URL" not in os.environ:
        parser.error("Set DATABASE_URL to a database of its own: records can never be deleted.")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")
    django.setup()
    customers = range(given.first_customer, given.first_customer + given.customers)
    generate(customers, records=given.records, months=given.months, seed=given.seed)
    sys.stdout.write(f"{given.records:,} records.\n")


if __name__ == "__main__":
    main()
