"""The overview of many customers: the first request of a fresh process, while usage arrives.

The books have 1000 customers with 40 services on each day of this month and the last, whose bills
are all open: 2.4 million rows of daily usage at the end of a month. There are no records behind
them, which the overview does not read. `check_usage` has kept the sums of past days.
"""

from __future__ import annotations

import datetime as dt
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from decimal import ROUND_HALF_UP, Decimal
from statistics import median
from threading import Event

import requests

from benchmarks import growth, ingest, load
from benchmarks.databases import CUSTOMERS, Database, database, manage
from benchmarks.figures import Bound, Figure
from benchmarks.servers import Server, serving

_SERVICES = 40
# Usage of both months goes on the bills of its own month.
_ENVIRONMENT = {"BILLING_GRACE_DAYS": "366"}
_BILLS = """
    INSERT INTO usage_bill (customer_id, month, period_start, period_end, currency,
        minor_unit_digits, named_after_closing)
    SELECT customer.id, start::date, start, start + interval '1 month', 'USD', 2, false
    FROM usage_customer customer, (
        SELECT date_trunc('month', now(), 'UTC') AS this) AS month,
        unnest(ARRAY[this - interval '1 month', this]) AS start
"""
_DAILY_USAGE = f"""
    INSERT INTO usage_dailyusage (customer_id, bill_id, service, price_per_unit, day, slot,
        units, records)
    SELECT bill.customer_id, bill.id, 'Service ' || service, 0.01 * service, day::date,
        date_part('day', day)::int % 2, 1.5 * (1 + (7 * bill.customer_id + service) % 97), 3
    FROM usage_bill bill, generate_series(1, {_SERVICES}) AS service,
        generate_series(bill.month, least(bill.month + interval '1 month' - interval '1 day',
            now()), interval '1 day') AS day
    ORDER BY day, bill.id
"""
_ACCRUED = """
    SELECT sum(units * price_per_unit) FROM usage_dailyusage JOIN usage_bill bill
    ON bill.id = bill_id WHERE bill.month = date_trunc('month', now(), 'UTC')::date
"""


def measure(server_url: str, *, rounds: int, say: Callable[[str], None]) -> list[float]:
    """Return the seconds of each first visit; raises DishonestRun if its sum is not exact."""
    growth.collect_static()
    with database(server_url, "overview", "usage_usagerecord") as books:
        authorization = ingest.prepare(books.url)
        growth.add_staff(books)
        ingest.add_customers(books)
        for sql in ("SET TIME ZONE 'UTC'", _BILLS, _DAILY_USAGE, "VACUUM ANALYZE"):
            books.rows(sql)
        say(f"{books.value('SELECT count(*) FROM usage_dailyusage'):,} rows of daily usage loaded.")
        began = time.perf_counter()
        manage(books.url, "check_usage")  # as its timer does every hour
        say(f"check_usage: {time.perf_counter() - began:.1f} s")
        with _serving("reports", books, authorization) as reports:
            visitor = growth.login(reports)
            times = []
            for number in range(rounds):
                with ThreadPoolExecutor(1) as pool, _serving("fresh", books, "") as fresh:
                    ends = Event()
                    reporting = pool.submit(_report, reports, f"{number}", ends)
                    seconds, _ = _visit(visitor, fresh)
                    ends.set()
                    reporting.result()
                times.append(seconds)
                say(f"overview: {seconds:.2f} s")
            with _serving("fresh", books, "") as fresh:
                _, page = _visit(visitor, fresh)
        cents = books.value(_ACCRUED).quantize(Decimal("0.01"), ROUND_HALF_UP)
        if f"${cents:,}" not in page:
            raise load.DishonestRun(f"The overview does not show ${cents:,}.")
        return times


def _serving(name: str, books: Database, authorization: str) -> AbstractContextManager[Server]:
    application = "billing_project.wsgi"
    return serving(name, application, books, authorization, environment=_ENVIRONMENT)


def _visit(visitor: requests.Session, server: Server) -> tuple[float, str]:
    url = f"http://127.0.0.1:{server.port}/admin/"
    began = time.perf_counter()
    answer = visitor.get(url, allow_redirects=False)
    seconds = time.perf_counter() - began
    if answer.status_code != 200:
        raise load.DishonestRun(f"{url} answers {answer.status_code}.")
    return seconds, answer.text


def _report(server: Server, name: str, ends: Event) -> None:
    """Report batches of usage of both months until the end."""
    now = dt.datetime.now(dt.UTC)
    times = [at.isoformat() for at in (now, now.replace(day=1) - dt.timedelta(days=1))]
    for batch in itertools.count():
        records = [
            {
                "request_id": f"overview:{name}:{batch}:{place}",
                "customer_id": 1 + place * CUSTOMERS // 100,
                "service": f"Service {1 + place % _SERVICES}",
                "units_consumed": place + 1,
                "price_per_unit": "0.05",
                "occurred_at": times[place % 2],
            }
            for place in range(100)
        ]
        headers = {"Authorization": server.authorization}
        answer = requests.post(server.url, json=records, headers=headers, timeout=30)
        if answer.json()["summary"]["created"] != len(records):
            raise load.DishonestRun(f"The batch was answered {answer.text[:300]}")
        if ends.is_set():
            return


def figures(times: list[float]) -> list[Figure]:
    """The row of the table."""
    label = f"overview, first request of a process, {CUSTOMERS} customers × {_SERVICES} services, s"
    return [Figure(label, median(times), min(times), max(times), Bound(1.5, 0.5, at_most=True))]
