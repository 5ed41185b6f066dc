"""What people wait for, and how fast usage is taken in, as the records pile up."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import NamedTuple

import requests

from benchmarks import ingest, load
from benchmarks.databases import CUSTOMERS, Database, database, manage, run
from benchmarks.figures import Bound, Figure, Rounds, ratio
from benchmarks.load import Load
from benchmarks.servers import Server, serving

_WHALE = CUSTOMERS + 1
_PASSWORD = "only-for-the-benchmark"  # noqa: S105 - of a database that is dropped at the end
_PAGES = {
    "overview": "/admin/",
    "customer page": f"/admin/usage/customer/{_WHALE}/change/",
    "bill page": "/admin/usage/bill/{bill}/change/",
    "statement": "/admin/usage/bill/{bill}/statement/",
    "attention list": "/admin/usage/bill/attention/",
    "bills to close": "/admin/usage/bill/to-close/",
    "bill list": "/admin/usage/bill/",
    "bill list by total": "/admin/usage/bill/?total_from=1000",
    "record list": "/admin/usage/usagerecord/",
    "record list of the bill": "/admin/usage/usagerecord/?bill={bill}",
    "record list of the customer": f"/admin/usage/usagerecord/?customer={_WHALE}",
    "record list by amount": f"/admin/usage/usagerecord/?customer={_WHALE}&amount=1000",
}
_VISITS = 15
_MOST_CHECKED = (
    1_000_000  # which grows by the record: ten times as many would take ten times as long
)


class Size(NamedTuple):
    """A service whose books hold so many records, most of them on one bill."""

    records: int
    server: Server
    books: Database
    bill: int
    load_seconds: float


class Growth(NamedTuple):
    """Seconds by size: each page, a close, both checks, loading; and the ingest of both ends."""

    pages: dict[str, dict[int, list[float]]]
    closing: dict[int, list[float]]
    verifying: dict[int, float]
    checking: dict[int, float]
    loading: dict[int, float]
    ingest: Rounds


@contextlib.contextmanager
def size(server_url: str, records: int) -> Iterator[Size]:
    """Load a database: 1000 customers with three months of bills, and one bill with the rest."""
    with database(server_url, f"at{records}", "usage_usagerecord") as books:
        authorization = ingest.prepare(books.url)
        began = time.monotonic()
        few = min(10_000, records // 2)
        _generate(books, "--customers", CUSTOMERS, "--records", few, "--months", 3)
        whale = ("--customers", 1, "--first-customer", _WHALE, "--months", 1)
        _generate(books, *whale, "--records", records - few)
        seconds = time.monotonic() - began
        books.rows("VACUUM ANALYZE")
        add_staff(books)
        bill = books.value(f"SELECT id FROM usage_bill WHERE customer_id = {_WHALE}")
        with serving(
            f"{records:,} records", "billing_project.wsgi", books, authorization
        ) as server:
            yield Size(records, server, books, bill, seconds)


def add_staff(books: Database) -> None:
    """Add the one who visits the pages."""
    who = ["--username", "staff", "--email", "staff@example.com"]
    run(
        [sys.executable, "manage.py", "createsuperuser", "--noinput", *who],
        {"DATABASE_URL": books.url, "DEBUG": "1", "DJANGO_SUPERUSER_PASSWORD": _PASSWORD},
    )


def collect_static() -> None:
    """Make the files that the pages refer to."""
    run(
        [sys.executable, "manage.py", "collectstatic", "--noinput", "--verbosity", "0"],
        {"DEBUG": "0", "SECRET_KEY": "x" * 50, "DATABASE_URL": "sqlite:///unused"},
    )


def _generate(books: Database, *options: object) -> None:
    command = [sys.executable, "-m", "benchmarks.generate", *map(str, options)]
    run(command, {"DATABASE_URL": books.url, "DEBUG": "1"})


def measure(
    server_url: str,
    sizes: list[int],
    *,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> Growth:
    """Measure everything at every size, side by side; `sizes` from small to large."""
    collect_static()
    with contextlib.ExitStack() as stack:
        grown = []
        for records in sizes:
            say(f"Loading {records:,} records …")
            grown.append(stack.enter_context(size(server_url, records)))
            say(f"loaded in {grown[-1].load_seconds:.0f} s")
        pages = _pages(grown)
        say("Pages measured.")
        results = _ingest(server_url, grown[-1], rounds=rounds, seconds=seconds, say=say)
        # While the bill with the most records is open, as only open bills are checked.
        checking = {one.records: _checking(one) for one in grown if one.records <= _MOST_CHECKED}
        say(f"Checked in {checking}")
        closing = {one.records: _closing(one) for one in grown}
        verifying = {one.records: _verifying(one) for one in grown}
        say(f"Verified in {verifying}")
        loading = {one.records: one.load_seconds for one in grown}
        return Growth(pages, closing, verifying, checking, loading, results)


def _pages(grown: list[Size]) -> dict[str, dict[int, list[float]]]:
    visitors = {one.records: login(one.server) for one in grown}
    times: dict[str, dict[int, list[float]]] = {
        page: {one.records: [] for one in grown} for page in _PAGES
    }
    for visit in range(_VISITS + 1):
        for page, address in _PAGES.items():
            for one in grown if visit % 2 else grown[::-1]:
                url = f"http://127.0.0.1:{one.server.port}{address.format(bill=one.bill)}"
                began = time.perf_counter()
                answer = visitors[one.records].get(url, allow_redirects=False)
                seconds = time.perf_counter() - began
                if answer.status_code != 200:
                    raise load.DishonestRun(f"{url} answers {answer.status_code}.")
                if visit:  # the first one is to warm up
                    times[page][one.records].append(seconds)
    return times


def login(server: Server) -> requests.Session:
    """Return a session of the one who visits the pages."""
    visitor = requests.Session()
    url = f"http://127.0.0.1:{server.port}/admin/login/"
    form = visitor.get(url).text
    token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form)[0]
    answer = visitor.post(
        url,
        {"username": "staff", "password": _PASSWORD, "csrfmiddlewaretoken": token},
        headers={"Referer": url},
        allow_redirects=False,
    )
    if answer.status_code != 302:
        raise load.DishonestRun(f"Staff cannot log in: {answer.status_code}.")
    return visitor


def _ingest(
    server_url: str, large: Size, *, rounds: int, seconds: float, say: Callable[[str], None]
) -> Rounds:
    with ingest.ours(server_url) as empty:
        sides = [Load("at none", empty), Load("at most", large.server)]
        for made in sides:
            load.make(made, 2)
        return ingest.in_turns(sides, rounds=rounds, seconds=seconds, say=say)


def _closing(one: Size) -> list[float]:
    """Seconds of closing its bill, again and again: each but the last close is rolled back."""
    said = run(
        [sys.executable, "-m", "benchmarks.closing", str(one.bill), str(_VISITS)],
        {"DATABASE_URL": one.books.url, "DEBUG": "1"},
    )
    seconds: list[float] = json.loads(said)
    return seconds


def _verifying(one: Size) -> float:
    began = time.perf_counter()
    manage(one.books.url, "verify_bills", "--bill", str(one.bill))
    return time.perf_counter() - began


def _checking(one: Size) -> float:
    """Seconds of the check of all open bills, which reads each of their records."""
    began = time.perf_counter()
    try:
        manage(one.books.url, "check_usage")
    except RuntimeError as error:
        if " blocking, " not in str(error):  # made-up usage has its accidents
            raise
    return time.perf_counter() - began


def figures(growth: Growth) -> list[Figure]:
    """The ratios of the largest to the smallest size."""
    all_sizes = sorted(growth.closing)
    small, large = all_sizes[0], all_sizes[-1]
    flat = Bound(1.3, 1.1, at_most=True)
    between = f"at {large:,} ÷ at {small:,} records"
    most, none = growth.ingest.rates("at most"), growth.ingest.rates("at none")
    return [
        ratio(f"ingest at {large:,} records ÷ at none", most, none, Bound(0.85, 0.95)),
        *(
            ratio(f"{page}, time, {between}", times[large], times[small], flat)
            for page, times in growth.pages.items()
        ),
        ratio(
            f"closing a bill, time, {between}", growth.closing[large], growth.closing[small], flat
        ),
    ]


def table(growth: Growth) -> list[list[str]]:
    """Milliseconds and seconds by size, a row each."""
    all_sizes = sorted(growth.closing)
    rows = [["", *(f"{records:,} records" for records in all_sizes)]]
    for page, times in growth.pages.items():
        cells = [f"{1000 * median(times[records]):.1f} ms" for records in all_sizes]
        rows.append([page, *cells])
    rows.append(
        ["close", *(f"{1000 * median(growth.closing[records]):.1f} ms" for records in all_sizes)]
    )
    rows.append(
        ["verify_bills --bill", *(f"{growth.verifying[records]:.1f} s" for records in all_sizes)]
    )
    rows.append(["check_usage", *(_seconds(growth.checking.get(records)) for records in all_sizes)])
    rows.append(["loading", *(f"{growth.loading[records]:.0f} s" for records in all_sizes)])
    return rows


def _seconds(measured: float | None) -> str:
    return "–" if measured is None else f"{measured:.1f} s"
