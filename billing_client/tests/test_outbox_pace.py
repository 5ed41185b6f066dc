"""An outage is no storm, clocks do not matter, and a record that cannot be taken stops no other."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine

from billing_client import BillingClient
from billing_client.batches import MOST_BYTES, MOST_RECORDS
from billing_client.outbox import delivery
from billing_client.outbox import outbox as outbox_module
from billing_client.outbox.delivery import Pace
from billing_client.tests.faulty import Behaviour, Exchange, FaultyServer, honest, refuse, reply
from billing_client.tests.outboxes import (
    SOAK,
    eventually,
    fact,
    facts,
    hurried,
    orphan,
    rejected,
    sent_ids,
)

pytestmark = pytest.mark.live  # waits for servers
CLIENTS = 50
BATCH = MOST_RECORDS


@pytest.mark.parametrize("retry_after", [None, 5.0])
def test_fifty_clients_in_an_outage_of_a_minute_are_no_storm(
    monkeypatch: pytest.MonkeyPatch, retry_after: float | None
) -> None:
    """In time that passes at once."""
    random.seed(1)
    attempts: list[float] = []
    delivered = []
    for _ in range(CLIENTS):
        now = 0.0
        monkeypatch.setattr(delivery, "monotonic", lambda: now)  # noqa: B023 - the clock of this turn
        client = Pace(1.0, 60.0, 1.0)
        while now < 60:
            attempts.append(now)
            client.failed(retry_after)
            now += max(client.left(), 1e-3)
        delivered.append(now)
    seconds = Counter(int(at) for at in attempts if at > 1)
    assert len(attempts) < CLIENTS * 20
    assert max(seconds.values()) < CLIENTS * 0.8
    assert max(Counter(int(at) for at in delivered).values()) < CLIENTS / 4
    assert max(delivered) < 60 + 60 + (retry_after or 0)


@pytest.mark.no_cover  # other tests measure this code
@pytest.mark.timeout(300)
def test_all_is_delivered_after_an_outage(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, ceiling = (60.0, 60.0) if SOAK else (1.0, 1.0)
    monkeypatch.setattr(outbox_module, "ATTEMPTS", (1.0 if SOAK else 0.05, ceiling, 0.01))
    ends = time.monotonic() + seconds
    refused: list[float] = []

    def outage(exchange: Exchange) -> None:
        exchange.server.script.append(outage)
        if time.monotonic() < ends:
            refused.append(time.monotonic())
            refuse(503, "service_unavailable")(exchange)
        else:
            honest(exchange)

    server.script.extend([outage] * CLIENTS)
    with ExitStack() as stack:
        for n in range(CLIENTS):
            client = stack.enter_context(hurried(server.url, tmp_path / str(n)))
            client.enqueue(fact(f"n{n}"))
        eventually(lambda: len(server.service.stored) == CLIENTS, seconds + 2 * ceiling + 60)
    assert len(refused) < CLIENTS * 25


def test_it_sends_little_after_a_failure(server: FaultyServer, tmp_path: Path) -> None:
    server.script.append(refuse(503, "service_unavailable"))
    orphan(tmp_path, *names(range(1000)))  # which are found all at once
    with hurried(server.url, tmp_path) as billing:
        eventually(lambda: billing.flush(20).pending == 0)
    assert [len(sent_ids(seen.body)) for seen in server.seen[1:4]] == [8, 32, 128]


# Clocks


@pytest.mark.parametrize("hours", [2, -2])
def test_a_clock_that_jumps_stops_nothing(
    outbox: BillingClient, server: FaultyServer, hours: int
) -> None:
    server.script.extend([refuse(503, "service_unavailable")] * 3)
    for n in range(600):
        outbox.enqueue(fact(f"n{n}"))
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=hours)):
        outbox.enqueue(fact("in-the-other-time"))
        eventually(lambda: outbox.flush(1).pending == 0)
        assert (outbox.stats().oldest_seconds or 0.0) >= 0.0
    assert len(server.service.stored) == 601


def test_the_end_of_summer_time_changes_nothing(
    outbox: BillingClient, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for minute in (59, 61):
            moment = datetime(2026, 10, 25, tzinfo=UTC) + timedelta(minutes=minute)
            with time_machine.travel(moment):
                outbox.enqueue(fact(f"n{minute}"))
                eventually(lambda: outbox.flush(1).pending == 0)
    finally:
        os.environ.pop("TZ")
        time.tzset()
    stamps = [record["occurred_at"][:16] for record in server.service.stored.values()]
    assert stamps == ["2026-10-25T00:59", "2026-10-25T01:01"]


# Poison


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is enqueued before a flush goes in few batches."""
    monkeypatch.setattr(outbox_module, "LINGER_SECONDS", 10.0)


def names(numbers: list[int] | range) -> list[str]:
    return sorted(f"n{n}" for n in numbers)


class Wall:
    """Something before the service that refuses a whole request for one record in it."""

    def __init__(self, status: int, poison: list[str], most: int = BATCH) -> None:
        self.status = status
        self.poison = set(poison)
        self.most = most

    def __call__(self, exchange: Exchange) -> None:
        exchange.server.script.append(self)
        ids = sent_ids(exchange.request.body)
        stopped = self.poison & set(ids) or len(ids) > self.most
        (reply(self.status, b"no") if stopped else honest)(exchange)

    __name__ = "wall"


class Picky(Wall):
    """A service that refuses these records, and no others."""

    def __call__(self, exchange: Exchange) -> None:
        exchange.server.script.append(self)
        records = json.loads(exchange.request.body)
        taken = [record for record in records if record["request_id"] not in self.poison]
        _, body, _ = exchange.server.service.answer(json.dumps(taken).encode())
        good = iter(body.get("results", ()))  # none if all are refused
        error = {"code": "validation_error", "detail": "It is wrong."}
        results = [
            {"status": 400, "request_id": record["request_id"], "error": error}
            if record["request_id"] in self.poison
            else next(good)
            for record in records
        ]
        reply(207, {"results": results})(exchange)


@pytest.mark.no_cover  # other tests measure this code
@pytest.mark.parametrize(
    ("wall", "status", "bad"),
    [
        *[(Picky, 207, bad) for bad in ([7], [0, 999], range(0, BATCH, 7), range(40))],
        # Of which nothing says whose fault it is, so they are taken apart.
        *[(Wall, status, [7]) for status in (400, 413, 422)],
        *[(Wall, 400, bad) for bad in ([0, 999], range(100, 130), range(0, BATCH, 30))],
    ],
)
def test_refused_records_stop_no_other(
    server: FaultyServer,
    tmp_path: Path,
    wall: type[Wall],
    status: int,
    bad: list[int],
) -> None:
    server.script.append(wall(status, names(bad)))
    orphan(tmp_path, *names(range(BATCH)))  # which are found all at once
    with hurried(server.url, tmp_path) as billing:
        flushed = billing.flush(20)
    assert (flushed.sent, flushed.rejected, flushed.paused_reason) == (
        BATCH - len(bad),
        len(bad),
        None,
    )
    assert sorted(server.service.stored) == sorted({*names(range(BATCH))} - {*names(bad)})
    assert rejected(tmp_path) == names(bad)


@pytest.mark.usefixtures("together")
def test_requests_that_are_too_large_are_halved(
    outbox: BillingClient, server: FaultyServer
) -> None:
    server.script.append(Wall(413, [], most=100))
    for usage in facts(1500):
        outbox.enqueue(usage)
    flushed = outbox.flush(20)
    assert (flushed.pending, flushed.rejected) == (0, 0)
    assert len(server.service.stored) == 1500
    refused = len(server.seen) - len(server.service.batches)
    assert refused < len(server.seen) / 2


@pytest.mark.usefixtures("together")
def test_a_lone_record_that_a_proxy_refuses_is_kept(
    outbox: BillingClient, server: FaultyServer, tmp_path: Path
) -> None:
    """Nothing says yet that the fault is the record's."""
    server.script.append(Wall(400, ["bad"]))
    outbox.enqueue(fact("bad"))
    assert outbox.flush(20).paused_reason is not None
    outbox.enqueue(fact("good"))
    eventually(lambda: outbox.flush(20).pending == 0)
    assert list(server.service.stored) == ["good"]
    assert rejected(tmp_path) == ["bad"]


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("outage", [refuse(503, "x", Retry_After="9"), refuse(429, "too_many")])
def test_an_outage_in_between_judges_no_record(
    outbox: BillingClient, server: FaultyServer, outage: Behaviour
) -> None:
    server.script.extend([reply(400, b"no"), *[outage] * 1000])
    for usage in facts(10):
        outbox.enqueue(usage)
    flushed = outbox.flush(0.3)
    assert (flushed.rejected, flushed.pending) == (0, 10)


@pytest.mark.usefixtures("together")
def test_a_request_of_the_longest_records_is_small_enough(
    outbox: BillingClient, server: FaultyServer
) -> None:
    for n in range(BATCH):
        name = f"{n:04}" + '"' * 124
        outbox.enqueue(fact(name, service="𝄞" * 100, customer_id=2**63 - 1))
    assert outbox.flush(20).sent == BATCH
    assert max(len(seen.body) for seen in server.seen) < MOST_BYTES / 2
