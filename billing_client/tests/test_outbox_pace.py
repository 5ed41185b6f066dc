"""An outage is no storm, and clocks do not matter."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine

from billing_client.outbox import delivery
from billing_client.outbox.delivery import Pace
from billing_client.tests.faulty import Exchange, FaultyServer, honest, refuse
from billing_client.tests.outboxes import SOAK, eventually, fact, hurried

CLIENTS = 50


@pytest.fixture
def real_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_CEILING", 1.0)
    monkeypatch.setattr(delivery, "LAST_CEILING", 60.0)
    monkeypatch.setattr(delivery, "SHORTEST_SECONDS", 1.0)


@pytest.mark.usefixtures("real_times")
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
        client = Pace()
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


@pytest.mark.timeout(300)
def test_all_is_delivered_after_an_outage(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, ceiling = (60.0, 60.0) if SOAK else (1.0, 1.0)
    monkeypatch.setattr(delivery, "FIRST_CEILING", 1.0 if SOAK else 0.05)
    monkeypatch.setattr(delivery, "LAST_CEILING", ceiling)
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


def test_a_pause_ends_the_growth_and_success_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Pace()
    client.failed(None)
    assert client.limit == delivery.PROBE_RECORDS
    for _ in range(4):
        client.succeeded()
    assert client.limit == delivery.MOST_RECORDS
    client.too_large(500)
    for _ in range(20):
        client.succeeded()
    assert 250 < client.limit < 500


@pytest.mark.parametrize("hours", [2, -2])
def test_a_clock_that_jumps_stops_nothing(server: FaultyServer, tmp_path: Path, hours: int) -> None:
    server.script.extend([refuse(503, "service_unavailable")] * 3)
    with hurried(server.url, tmp_path) as billing:
        for n in range(600):
            billing.enqueue(fact(f"n{n}"))
        with time_machine.travel(datetime.now(UTC) + timedelta(hours=hours)):
            billing.enqueue(fact("in the other time".replace(" ", "-")))
            eventually(lambda: billing.flush(1).pending == 0)
            assert (billing.stats().oldest_seconds or 0.0) >= 0.0
    assert len(server.service.stored) == 601


def test_the_end_of_summer_time_is_no_event(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        with hurried(server.url, tmp_path) as billing:
            for minute in (59, 61):
                moment = datetime(2026, 10, 25, 0, tzinfo=UTC) + timedelta(minutes=minute)
                with time_machine.travel(moment):
                    billing.enqueue(fact(f"n{minute}"))
                    eventually(lambda: billing.flush(1).pending == 0)
    finally:
        os.environ.pop("TZ")
        time.tzset()
    stamps = [record["occurred_at"][:16] for record in server.service.stored.values()]
    assert stamps == ["2026-10-25T00:59", "2026-10-25T01:01"]
