"""How fast usage is taken in, beside the peers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, cast

from benchmarks import load
from benchmarks.databases import CUSTOMERS, ROOT, Database, database, manage, run
from benchmarks.figures import Bound, Figure, Rounds, ratio
from benchmarks.load import Load, Result
from benchmarks.servers import Server, serving

_PEERS = ROOT / "benchmarks" / "peers"
NEW = "new records, ours"
FLOOR = "new records, floor"
NAIVE = "new records, naive"
REPLAYS = "replays, ours"
HOT = "new records of one customer, ours"
BATCHES = "batches of 1000, ours"
FLOOR_BATCHES = "batches of 1000, floor"
HUNDREDS = "batches of 100, ours"
FLOOR_HUNDREDS = "batches of 100, floor"
MIX = "99 % new and 1 % replays, ours"


class Sides(NamedTuple):
    """The service and its peers, running."""

    ours: Server
    books: Database  # of the service
    floor: Server
    naive: Server


@contextlib.contextmanager
def sides(server_url: str) -> Iterator[Sides]:
    """Start the service and its peers, each on a database of its own."""
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(ours(server_url))
        yield Sides(
            service,
            cast("Database", service.database),
            stack.enter_context(_floor(server_url)),
            stack.enter_context(_naive(server_url)),
        )


def prepare(url: str, *, root: Path = ROOT) -> str:
    """Make the service's tables and an API key; return what its callers show."""
    manage(url, "migrate", "--verbosity", "0", root=root)
    key = manage(url, "create_api_key", "benchmark", root=root).strip()
    return f"Bearer {key}"


def add_customers(ours: Database) -> None:
    """Add as many customers as the loads name."""
    ours.rows(
        "INSERT INTO usage_customer (id, name, currency)"
        f" SELECT id, 'Customer ' || id, 'USD' FROM generate_series(1, {CUSTOMERS}) id"
    )
    ours.rows("ANALYZE usage_customer")  # as autovacuum does within a minute


@contextlib.contextmanager
def ours(
    server_url: str,
    application: str = "billing_project.wsgi",
    *,
    threads: int = 32,
    environment: Mapping[str, str] = MappingProxyType({}),
    root: Path = ROOT,
) -> Iterator[Server]:
    """Start the service on a database with customers and no usage."""
    with database(server_url, "ours", "usage_usagerecord") as books:
        authorization = prepare(books.url, root=root)
        add_customers(books)
        with serving(
            "ours",
            application,
            books,
            authorization,
            threads=threads,
            environment=environment,
            root=root,
        ) as server:
            yield server


@contextlib.contextmanager
def _floor(server_url: str) -> Iterator[Server]:
    with database(server_url, "floor", "usage_record") as floor:
        floor.rows((_PEERS / "floor.sql").read_text())
        with serving("floor", "benchmarks.peers.floor", floor, "none") as server:
            yield server


@contextlib.contextmanager
def _naive(server_url: str) -> Iterator[Server]:
    with database(server_url, "naive", "naive_usagerecord") as naive:
        environment = naive.environment | {
            "DJANGO_SETTINGS_MODULE": "benchmarks.peers.naive.settings",
            "DJANGO_SUPERUSER_PASSWORD": "benchmark",
        }
        django = [sys.executable, "-m", "django"]
        run([*django, "migrate", "--run-syncdb", "--verbosity", "0"], environment)
        who = ["--username", "benchmark", "--email", "benchmark@example.com"]
        run([*django, "createsuperuser", "--noinput", *who], environment)
        run([*django, "drf_create_token", "benchmark"], environment)
        naive.rows(
            "INSERT INTO naive_customer (id, name)"
            f" SELECT id, 'Customer ' || id FROM generate_series(1, {CUSTOMERS}) id"
        )
        token = naive.value("SELECT key FROM authtoken_token")
        with serving("naive", "benchmarks.peers.naive.wsgi", naive, f"Token {token}") as server:
            yield server


def loads(sides: Sides, *, quick: bool) -> list[Load]:
    """The loads of each round, in this order or, every other round, in the opposite."""
    some = [
        Load(NEW, sides.ours),
        Load(FLOOR, sides.floor),
        Load(NAIVE, sides.naive),
        Load(HOT, sides.ours, customers=1),
        Load(BATCHES, sides.ours, size=1000),
        Load(FLOOR_BATCHES, sides.floor, size=1000),
        Load(HUNDREDS, sides.ours, size=100),
        Load(FLOOR_HUNDREDS, sides.floor, size=100),
    ]
    return some if quick else [*some, Load(MIX, sides.ours, mix=100)]


def measure(
    sides: Sides, *, rounds: int, seconds: float, quick: bool, say: Callable[[str], None]
) -> Rounds:
    """Make every load once a round; the replays repeat the new records of their round."""
    results = Rounds()

    def note(made: Load, result: Result) -> None:
        results.setdefault(made.label, []).append(result)
        say(f"{made.label}: {result.records_per_second:,.0f} records/s")

    for made in loads(sides, quick=quick):  # warm: bills open, connections made, pages in memory
        load.make(made, 1)
    replays = Load(REPLAYS, sides.ours, replays=True)
    for number in range(rounds):
        say(f"Round {number + 1} of {rounds}")
        order = loads(sides, quick=quick)
        for made in order if number % 2 == 0 else order[::-1]:
            new = load.make(made, seconds)
            note(made, new)
            if made.label == NEW:
                note(replays, load.make(replays, seconds, replayed=new))
    return results


def in_turns(
    sides: Sequence[Load], *, rounds: int, seconds: float, say: Callable[[str], None]
) -> Rounds:
    """Make these loads in each round, every other time in reverse; return all results."""
    results = Rounds()
    for number in range(rounds):
        for made in sides if number % 2 == 0 else sides[::-1]:
            result = load.make(made, seconds)
            results.setdefault(made.label, []).append(result)
            say(f"{made.label}: {result.records_per_second:,.0f} records/s")
    return results


def figures(results: Rounds) -> list[Figure]:
    """The ratios of the first rows of the table."""
    new, naive, batches = (results.rates(label) for label in (NEW, NAIVE, BATCHES))
    tails = [result.p99 for result in results[NEW]], [result.p50 for result in results[NEW]]
    return [
        *results.compare("single new record, ours ÷ floor", NEW, FLOOR, Bound(0.7, 0.8)),
        *results.compare("single new record, ours ÷ naive", NEW, NAIVE, Bound(6, 8)),
        ratio(
            "single new record, PostgreSQL's CPU, ours ÷ floor's",
            [result.database_cpu for result in results[NEW]],
            [result.database_cpu for result in results[FLOOR]],
            Bound(1.3, 1.1, at_most=True),
        ),
        ratio("replay ÷ new record", results.rates(REPLAYS), new, Bound(0.9, 1.1)),
        *results.compare(
            "batch of 100, ours ÷ floor's batch", HUNDREDS, FLOOR_HUNDREDS, Bound(0.6, 0.75)
        ),
        *results.compare(
            "batch of 1000, ours ÷ floor's batch", BATCHES, FLOOR_BATCHES, Bound(0.6, 0.75)
        ),
        ratio(
            "batch of 1000, records/s ÷ single records/s of naive",
            batches,
            naive,
            Bound(60, 120),
        ),
        ratio("one hot customer ÷ 1000 customers", results.rates(HOT), new, Bound(0.9, 1)),
        ratio(
            "p99 ÷ p50 latency, single new records, 16 connections",
            *tails,
            Bound(3.5, 2.5, at_most=True),
        ),
    ]
