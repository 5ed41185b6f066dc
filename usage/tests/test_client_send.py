"""A file of usage through a relay that fails, sent by a command that is killed twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from django.conf import settings
from pytest_django.plugin import DjangoDbBlocker

from billing_client.tests.faulty import (
    Behaviour,
    Exchange,
    after_commit,
    cut,
    honest,
    reply,
    truncate,
)
from usage.tests.books import assert_books_balance, verify_bills
from usage.tests.live import Service
from usage.tests.relay import FaultyRelay

# The long form runs with SOAK=1, see `make soak`.
LINES = 200_000 if os.environ.get("SOAK") else 12_000
PRICE = Decimal("0.0375")
FAULTS: list[Behaviour] = [
    cut,
    after_commit(cut),
    truncate,
    reply(503, Retry_After="1"),
    after_commit(reply(502, b"<html>Bad Gateway</html>")),
]


@pytest.fixture
def relay(live_service: Service) -> Iterator[FaultyRelay]:
    with FaultyRelay(live_service.port) as relay:
        yield relay


def file_of(path: Path, customer: int) -> Path:
    now = datetime.now(UTC).isoformat()
    with path.open("w") as file:
        file.write("request_id;customer_id;service;units_consumed;price_per_unit;occurred_at\n")
        for number in range(1, LINES + 1):
            file.write(f"send:{number};{customer};CDN Storage;{number};{PRICE};{now}\n")
    return path


def started(path: Path, relay: FaultyRelay, service: Service) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "billing_client", "send", str(path)],
        cwd=settings.BASE_DIR,
        env=os.environ | {"BILLING_URL": relay.url, "BILLING_API_KEY": service.books.key},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def script(seed: int) -> list[Behaviour]:
    """About every third request fails."""
    dice = random.Random(seed)
    return [dice.choice(FAULTS) if dice.random() < 0.3 else honest for _ in range(LINES // 500)]


def test_a_file_is_recorded_once_though_its_sending_is_killed_twice(
    relay: FaultyRelay,
    live_service: Service,
    tmp_path: Path,
    django_db_blocker: DjangoDbBlocker,
) -> None:
    customer = live_service.customer()
    path = file_of(tmp_path / "usage.csv", customer)

    for seed in (1, 2):
        process = started(path, relay, live_service)

        def kill(exchange: Exchange, process: subprocess.Popen[str] = process) -> None:
            """Store the records, and kill their sender before it hears of it."""
            exchange.honest()
            process.kill()

        requests = LINES // 3000
        relay.script.clear()
        relay.script.extend([*script(seed)[:requests], after_commit(cut), kill])
        process.communicate(timeout=300)
        assert process.returncode == -9

    relay.script.clear()
    relay.script.extend(script(3))
    process = started(path, relay, live_service)
    out, err = process.communicate(timeout=800)

    assert process.returncode == 0, out + err
    assert out.startswith(f"{LINES:,} lines: {LINES:,} recorded (")
    stored = {
        record["request_id"]: record["units"]
        for record in live_service.books.table("usage_usagerecord")
        if record["customer_id"] == customer
    }
    assert stored == {f"send:{number}": Decimal(number) for number in range(1, LINES + 1)}
    assert_books_balance(live_service.books)
    with django_db_blocker.unblock():
        verify_bills(live_service.books)
