"""Serves a year of made-up usage: `python -m benchmarks.demo`, or `make demo`.

The usage lies in a database of its own, which is made at each start and deleted at the end.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import django

from benchmarks.databases import ROOT
from benchmarks.generate import generate

if TYPE_CHECKING:
    from usage.models import ApiKey

CUSTOMERS = (
    ("Northwind Traders", "USD"),
    ("Contoso Retail", "USD"),
    ("Aperture Laboratories", "USD"),
    ("Globex Corporation", "USD"),
    ("Initech", "USD"),
    ("Otani Denki", "JPY"),
    ("Gulf Data Services", "KWD"),
    ("Umbrella Biotech", "USD"),
    ("Wayne Enterprises", "USD"),
    ("Stark Industries", "USD"),
    ("Tyrell Corporation", "USD"),
    ("Vandelay Industries", "USD"),
)
FIRST_CUSTOMER = 101
NAME = PASSWORD = "sam"  # noqa: S105 - of a database that is deleted at the end
_HOUR = dt.timedelta(hours=1)
_DAY = dt.timedelta(days=1)


@contextmanager
def clock_at(instant: dt.datetime) -> Iterator[None]:
    """Stop the database's clock, as this process reads it, at an instant."""
    from usage.database.transactions import NOW  # noqa: PLC0415 - after django.setup()

    before = NOW.copy()
    text = f"{instant.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}.000"
    NOW.update(sqlite=f"'{text}'", postgresql=f"'{text}+00'::timestamptz")
    try:
        yield
    finally:
        NOW.update(before)


def fill(now: dt.datetime, *, months: int, records: int) -> ApiKey:
    """Fill an empty database with usage, bills, and what staff have done about them.

    Return the API key that reported some of it. Only the month and grace of `now` have open
    bills, and two customers of the month before.
    """
    from django.contrib.auth.models import User  # noqa: PLC0415 - after django.setup()
    from django.core.management import call_command  # noqa: PLC0415

    from usage.ledger.void import void  # noqa: PLC0415
    from usage.models import ApiKey, Customer, UsageRecord  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    User.objects.create_superuser(NAME, password=PASSWORD)
    customers = range(FIRST_CUSTOMER, FIRST_CUSTOMER + len(CUSTOMERS))
    Customer.objects.bulk_create(
        Customer(id=id_, name=name, currency=currency)
        for id_, (name, currency) in zip(customers, CUSTOMERS, strict=True)
    )
    with clock_at(now):
        generate(customers, records=records, months=months, seed="demo")
    _close_due_bills(now, but=customers[3::4])
    api_key, _ = ApiKey.objects.issue(name="cdn")
    for hours in range(60, 0, -5):
        at = now - hours * _HOUR
        _report(api_key, f"cdn:{at:%F}:{at:%H}", at)
    _report(
        api_key,
        "gpu:9",
        now - 2 * _DAY,
        service="GPU Instance",
        price_per_unit=Decimal("5.25"),
        units=Decimal(310),
    )
    last_month = now.replace(day=1, hour=23) - 2 * _DAY
    for customer_id in customers[::2][:2]:
        _report(
            api_key,
            f"cdn:{last_month:%F}:{customer_id}",
            last_month,
            recorded_at=now - _HOUR,
            customer_id=customer_id,
        )
    at = now - 5 * _HOUR
    with clock_at(now - _HOUR / 2):
        wrong = UsageRecord.objects.get(pk=f"cdn:{at:%F}:{at:%H}")
        void(wrong, reason="Counted twice.", by=NAME)
    return api_key


def _close_due_bills(now: dt.datetime, *, but: range) -> None:
    """Close each bill four days after its month, but for these customers' of the month before."""
    from usage.ledger.close import close  # noqa: PLC0415 - after django.setup()
    from usage.models import Bill  # noqa: PLC0415

    due = Bill.objects.due(now).order_by("month", "customer_id")
    for bill in due:
        if bill.customer_id not in but or bill.period_end < now - 31 * _DAY:
            with clock_at(min(now, bill.period_end + 4 * _DAY)):
                close(bill, by="close_bills")


def _report(
    api_key: ApiKey,
    request_id: str,
    occurred_at: dt.datetime,
    *,
    recorded_at: dt.datetime | None = None,
    **values: Any,
) -> None:
    """Record one fact, of the first customer and 41 seconds later if nothing else is said."""
    from usage.ledger.facts import Fact  # noqa: PLC0415 - after django.setup()
    from usage.ledger.record import record  # noqa: PLC0415

    usual = {"customer_id": FIRST_CUSTOMER, "service": "CDN Storage"}
    usual |= {"units": Decimal("412.5"), "price_per_unit": Decimal("0.02")}
    fact = Fact(request_id=request_id, occurred_at=occurred_at, **{**usual, **values})
    with clock_at(recorded_at or occurred_at + dt.timedelta(seconds=41)):
        record([fact], reported_by_id=api_key.pk)


def _add_traffic(api_key: ApiKey, now: dt.datetime) -> None:
    """Add traffic of the key: a count for each day, and refusals."""
    from usage.models import Refusal, Traffic  # noqa: PLC0415 - after django.setup()

    for days in range(30):
        created, refused = 900 + 31 * days % 200, 3 - days % 3
        day = (now - days * _DAY).date()
        Traffic.objects.create(
            api_key=api_key, day=day, created=created, replayed=7, refused=refused
        )
        Refusal.objects.create(
            api_key=api_key,
            at=now - days * _DAY,
            status=404,
            code="unknown_customer",
            detail="There is no customer with this id: ask billing to add the customer.",
            request_id=f"cdn:{day}:8",
        )


def main() -> int:
    """Fill a database, say how to log in, and serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--records", type=int, default=60_000)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # deletes the folder
    with tempfile.TemporaryDirectory(prefix="billing-demo-") as folder:
        os.environ |= {"DATABASE_URL": f"sqlite:///{folder}/demo.sqlite3", "DEBUG": "1"}
        os.environ["SELLER"] = "Nimbus Cloud GmbH|Hauptstraße 12|1010 Vienna"
        os.environ["DJANGO_SETTINGS_MODULE"] = "billing_project.settings"
        django.setup()
        now = dt.datetime.now(dt.UTC)
        _add_traffic(fill(now, months=12, records=arguments.records), now)
        address = f"127.0.0.1:{arguments.port}"
        sys.stdout.write(
            f"Staff log in at http://{address}/admin/ as {NAME} with the password {PASSWORD}.\n"
        )
        sys.stdout.flush()
        command = [sys.executable, "-m", "gunicorn", "billing_project.wsgi", "--bind", address]
        with subprocess.Popen([*command, "--workers", "2"], cwd=ROOT) as server:  # noqa: S603 - ours
            try:
                return server.wait()
            except KeyboardInterrupt:
                return 0
            finally:
                server.terminate()


if __name__ == "__main__":
    sys.exit(main())
