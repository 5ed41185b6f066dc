"""What one busy API key does to the others: quiet keys beside many connections of batches.

The busy key sends batches of 1000 as fast as it is answered, and a refusal (429) does not slow it
down: worse than our client, which waits as it is told. Each quiet key sends a record a second.
"""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple, cast

from benchmarks import ingest, load
from benchmarks.databases import CUSTOMERS, Database, manage
from benchmarks.figures import Bound, Figure, ratio
from benchmarks.load import Load
from benchmarks.report import table
from benchmarks.servers import Server

BUSY_CONNECTIONS = (0, 16, 64, 450)
_QUIET_KEYS = 9
_THREADS = 16  # of gunicorn.conf.py; the other loads have more
# Each key reports once a second: so long, or the 99th percentile would be the slowest of all.
_SECONDS = 20.0
_SETTLING_SECONDS = 1.0  # until the busy key has connected
_PATIENCE_SECONDS = 30.0
_names = (f"quiet-{number}" for number in itertools.count())


class Observed(NamedTuple):
    """The answers to quiet keys: the seconds of each answer, sorted, and how many did not come."""

    latencies: list[float]
    failures: int
    livez_seconds: float  # the slowest

    @property
    def p50(self) -> float:
        """The median latency, in seconds."""
        return median(self.latencies)

    @property
    def p99(self) -> float:
        """The latency that one in a hundred exceeds, in seconds."""
        return self.latencies[int(len(self.latencies) * 0.99)]


Rounds = dict[int, list[Observed]]  # by the connections of the busy key


def measure(server_url: str, *, rounds: int, say: Callable[[str], None]) -> Rounds:
    """Measure the quiet keys alone and beside the busy one, in each round."""
    observed: Rounds = {connections: [] for connections in BUSY_CONNECTIONS}
    with ingest.ours(server_url, threads=_THREADS) as server:
        keys = quiet_keys(server)
        for number in range(rounds):
            order = BUSY_CONNECTIONS if number % 2 == 0 else BUSY_CONNECTIONS[::-1]
            for connections in order:
                one = observe(server, keys, connections=connections)
                observed[connections].append(one)
                say(
                    f"quiet keys beside {connections} connections of one: p99"
                    f" {1000 * one.p99:.0f} ms, {one.failures} failures,"
                    f" /livez {1000 * one.livez_seconds:.0f} ms"
                )
    return observed


def quiet_keys(server: Server) -> list[str]:
    """Make the keys of a server that send little."""
    url = cast("Database", server.database).url
    names = [f"quiet {number}" for number in range(_QUIET_KEYS)]
    return [manage(url, "create_api_key", name).strip() for name in names]


def observe(server: Server, keys: list[str], *, connections: int) -> Observed:
    """Let these keys report beside so many connections of a busy one."""
    with _busy(server, connections):
        return _report(server, keys)


@contextmanager
def _busy(server: Server, connections: int) -> Iterator[None]:
    """One key sends batches while the block runs; raises DishonestRun if one was lost."""
    if not connections:
        yield
        return
    label = f"batches of 1000 on {connections} connections"
    batches = Load(label, server, size=1000, connections=connections, is_limited=True)
    with ThreadPoolExecutor(1) as pool:
        made: Future[object] = pool.submit(load.make, batches, _SECONDS + 2 * _SETTLING_SECONDS)
        time.sleep(_SETTLING_SECONDS)
        yield
        made.result()


def _report(server: Server, keys: list[str]) -> Observed:
    with ThreadPoolExecutor(len(keys) + 1) as pool:
        probe = pool.submit(_each_second, 0.0, lambda: _livez(server))
        quiet = [
            # Spread over the second, so that none waits for another.
            pool.submit(_each_second, place / len(keys), _reporter(server, key))
            for place, key in enumerate(keys)
        ]
        answers = [answer for future in quiet for answer in future.result()]
        probes = probe.result()
    latencies = sorted(taken for taken, _ in answers)
    failures = sum(not is_right for _, is_right in answers)
    livez = max(taken if is_right else _PATIENCE_SECONDS for taken, is_right in probes)
    return Observed(latencies, failures, livez)


def _each_second(offset: float, call: Callable[[], bool]) -> list[tuple[float, bool]]:
    """How long each call took and whether it was answered rightly; a late one delays no other."""
    outcomes = []
    began = time.monotonic() + offset
    due = began
    while due < began + _SECONDS:
        time.sleep(max(0.0, due - time.monotonic()))
        asked = time.monotonic()
        try:
            is_right = call()
        except (OSError, http.client.HTTPException):
            is_right = False
        outcomes.append((time.monotonic() - asked, is_right))
        due += 1.0
    return outcomes


def _livez(server: Server) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE_SECONDS)
    connection.request("GET", "/livez")
    status = connection.getresponse().status
    connection.close()
    return status == 200


def _reporter(server: Server, key: str) -> Callable[[], bool]:
    """One API client with a connection that it keeps, and a customer of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE_SECONDS)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    name, numbers = next(_names), itertools.count()
    customer_id = hash(key) % CUSTOMERS + 1

    def report() -> bool:
        record = {
            "request_id": f"{name}:{next(numbers)}",
            "customer_id": customer_id,
            "service": "CDN Storage",
            "units_consumed": 1,
            "price_per_unit": "0.02",
        }
        try:
            connection.request("POST", "/api/v1/usage/", json.dumps(record), headers)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        return response.status == 201

    return report


def figures(observed: Rounds) -> list[Figure]:
    """The rows of the table."""
    alone, beside, crowd = (observed[connections] for connections in (0, 64, 450))
    failures = [float(one.failures) for one in crowd]
    livez = [one.livez_seconds for one in crowd]
    return [
        ratio(
            "quiet keys' p99 beside 64 connections of one busy key ÷ without it",
            [one.p99 for one in beside],
            [one.p99 for one in alone],
            Bound(10, 4, at_most=True),
        ),
        _figure(
            "quiet keys' failures beside 450 connections of one busy key",
            max(failures),
            failures,
            Bound(0, 0, at_most=True),
        ),
        _figure(
            "/livez beside 450 connections of one busy key, slowest (s)",
            median(livez),
            livez,
            Bound(1, 0.1, at_most=True),
        ),
    ]


def _figure(label: str, value: float, values: list[float], bound: Bound) -> Figure:
    return Figure(label, value, min(values), max(values), bound)


def lines(observed: Rounds) -> list[str]:
    """A table of the quiet keys' latencies, medians over the rounds."""
    rows = [["connections of one busy key", "quiet p50", "quiet p99", "failures", "/livez"]]
    for connections, rounds in observed.items():
        rows.append(
            [
                str(connections),
                f"{1000 * median(one.p50 for one in rounds):.1f} ms",
                f"{1000 * median(one.p99 for one in rounds):.1f} ms",
                str(sum(one.failures for one in rounds)),
                f"{1000 * median(one.livez_seconds for one in rounds):.0f} ms",
            ]
        )
    return table(rows)
