"""Takes the pictures in docs/: ``python -m usage.tests.screenshots``, or ``make screenshots``.

A throwaway database is filled as a company's might be, always the same, at an instant that stands
still; the service runs in this process, and Chromium looks at it.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import django

from usage.ledger.close import close
from usage.ledger.void import void

NOW = dt.datetime(2026, 11, 23, 14, 30, tzinfo=dt.UTC)
DOCS = Path(__file__).parents[2] / "docs"
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
PICTURES = {"dashboard": 1500, "bill": 1500, "records": 760}


def set_clock(now: dt.datetime) -> None:
    """Let the database's clock stand still."""
    from usage.database import transactions  # noqa: PLC0415 - after django.setup()

    transactions.NOW["sqlite"] = f"'{now:%Y-%m-%d %H:%M:%S}.000'"


def fill() -> None:
    """Fill an empty database with customers, their usage, and what staff have done about it."""
    from django.contrib.auth.models import User  # noqa: PLC0415
    from django.core.management import call_command  # noqa: PLC0415

    from usage.models import ApiKey, Bill, Customer, UsageRecord  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    User.objects.create_superuser("sam", password="sam")
    Customer.objects.bulk_create(
        Customer(id=number, name=name, currency=currency)
        for number, (name, currency) in enumerate(CUSTOMERS, start=101)
    )
    options = {"customers": len(CUSTOMERS), "first_customer": 101, "seed": "pictures"}
    call_command("generate_usage", records=30_000, stdout=sys.stderr, **options)
    due = Bill.objects.due(NOW).exclude(customer__in=(104, 108), month=dt.date(2026, 10, 1))
    for bill in due.order_by("month", "customer_id"):
        close(bill, by="close_bills")
    cdn, _ = ApiKey.objects.issue(name="cdn")
    ApiKey.objects.update(prefix="5f0c2a91")  # which is drawn by lot, and on the pictures
    for hours in range(60, 0, -5):
        at = NOW - dt.timedelta(hours=hours)
        use(cdn, f"cdn:{at:%F}:{at:%H}", at)
    use(
        cdn,
        "gpu:2026-11-21:9",
        NOW - dt.timedelta(days=2),
        service="GPU Instance",
        price_per_unit=Decimal("5.25"),
        units=Decimal(310),
    )
    october, hour = dt.datetime(2026, 10, 30, 23, tzinfo=dt.UTC), dt.timedelta(hours=1)
    use(cdn, "cdn:2026-10-30:23", october, recorded_at=NOW - hour)
    use(cdn, "cdn:2026-10-30:22", october - hour, recorded_at=NOW - hour, customer_id=103)
    set_clock(NOW - hour / 2)
    wrong = UsageRecord.objects.get(pk="cdn:2026-11-23:09")
    void(wrong, reason="Counted twice: see cdn:2026-11-23:04.", by="sam")
    set_clock(NOW)


def use(
    reported_by: Any,
    request_id: str,
    occurred_at: dt.datetime,
    recorded_at: dt.datetime | None = None,
    **values: Any,
) -> None:
    """Record one fact, of the first customer and at once if nothing else is said."""
    from usage.ledger.record import record  # noqa: PLC0415
    from usage.tests.factories import FactFactory  # noqa: PLC0415

    values = {
        "customer_id": 101,
        "service": "CDN Storage",
        "units": Decimal("412.5"),
        "price_per_unit": Decimal("0.02"),
        **values,
    }
    fact = FactFactory.build(request_id=request_id, occurred_at=occurred_at, **values)
    set_clock(recorded_at or occurred_at + dt.timedelta(seconds=41))
    record([fact], reported_by_id=reported_by.pk)


@contextmanager
def served() -> Iterator[str]:
    """The service, in a thread of this process; yields its address."""
    from django.contrib.staticfiles.handlers import StaticFilesHandler  # noqa: PLC0415
    from django.test.testcases import LiveServerThread  # noqa: PLC0415

    server = LiveServerThread("127.0.0.1", StaticFilesHandler)
    server.daemon = True
    server.start()
    server.is_ready.wait()
    if server.error:
        raise server.error
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.terminate()
        server.join()


def take(address: str, folder: Path, *, chromium: str) -> None:
    """Log in and write a picture of each page."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    from usage.models import Bill  # noqa: PLC0415

    bill = Bill.objects.get(customer=101, month=dt.date(2026, 11, 1)).pk
    pages = {
        "dashboard": "/admin/",
        "bill": f"/admin/usage/bill/{bill}/change/",
        "records": f"/admin/usage/usagerecord/?bill={bill}",
    }
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/admin/")
        page.get_by_label("Username").fill("sam")
        page.get_by_label("Password").fill("sam")
        page.get_by_role("button", name="Log in").click()
        for name, path in pages.items():
            page.goto(address + path)
            page.set_viewport_size({"width": 1280, "height": PICTURES[name]})
            page.screenshot(path=folder / f"{name}.png")
        browser.close()


def main() -> None:
    """Fill a database, start the service, take the pictures."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        sys.exit("No browser: install chromium, or name one with CHROMIUM=/path/to/it.")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DATABASE_URL"] = f"sqlite:///{folder}/pictures.sqlite3"
        os.environ["DJANGO_SETTINGS_MODULE"] = "usage.tests.settings"
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # Playwright's loop runs in this thread
        django.setup()
        logging.disable()
        set_clock(NOW)
        fill()
        with served() as address:
            take(address, DOCS, chromium=chromium)


if __name__ == "__main__":
    main()
