"""The clients of docs/clients: through a proxy that fails, each fact is stored once and exactly."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from pytest_django.plugin import DjangoDbBlocker

from billing_client.fake.grading import Finding, Times
from billing_client.fake.server import FakeServer
from billing_client.tests.faulty import Exchange, cut, honest, message
from usage.models import Customer
from usage.tests.books import default_database
from usage.tests.live import Service
from usage.tests.relay import FaultyRelay

# They wait for half a minute, and need long to start on a busy machine.
PATIENCE_SECONDS = 300
pytestmark = [pytest.mark.timeout(2 * PATIENCE_SECONDS), pytest.mark.once]

FACTS = 16
CUSTOMER = 2**53 + 1  # a float rounds it
SILENCE_SECONDS = 8 if "SOAK" in os.environ else 1
FOLDER = settings.BASE_DIR / "docs" / "clients"
COMMANDS = {
    "curl": ["sh", "report.sh"],
    "Python": [sys.executable, "report.py"],
    "Node": ["node", "report.mjs"],
    "Go": ["go", "run", "report.go"],
    "Java": ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "Report.java"],
}
# .ci/run installs them all and says so by EVERY_CLIENT.
MISSING = [name for name, command in COMMANDS.items() if not shutil.which(command[0])]
LANGUAGES = [
    pytest.param(name, marks=pytest.mark.skipif(name in MISSING, reason="It is not installed."))
    for name in COMMANDS
]

# The service stores the fact, and the client does not learn of it:


def close(exchange: Exchange) -> None:
    exchange.honest()
    exchange.sock.shutdown(socket.SHUT_RDWR)


def reset(exchange: Exchange) -> None:
    exchange.honest()
    cut(exchange)


def silence(exchange: Exchange) -> None:
    exchange.honest()
    exchange.server.stopping.wait(SILENCE_SECONDS)


def bad_gateway(exchange: Exchange) -> None:
    exchange.honest()
    exchange.sock.sendall(message(502, b"<h1>Bad Gateway</h1>", {"Content-Type": "text/html"}))
    exchange.keep = True


def run(
    language: str, folder: Path, url: str, key: str, prefix: str
) -> subprocess.CompletedProcess[str]:
    command, file = COMMANDS[language][:-1], FOLDER / COMMANDS[language][-1]
    environment = {**os.environ, "BILLING_URL": url, "BILLING_API_KEY": key}
    return subprocess.run(
        [*command, str(file), prefix, str(FACTS)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


class Trials:
    """Every client beside the others, since each waits most of the time."""

    def __init__(self, service: Service, folder: Path, pool: ThreadPoolExecutor) -> None:
        self.service = service
        self.folder = folder
        self.pool = pool
        self.relays: dict[str, FaultyRelay] = {}
        self._through_relay: dict[str, Future[subprocess.CompletedProcess[str]]] = {}
        self._graded: dict[str, Future[list[Finding]]] = {}

    def start(self, language: str, relay: FaultyRelay) -> None:
        faults = itertools.cycle(
            [honest, close, honest, reset, honest, silence, honest, bad_gateway]
        )
        relay.script.extend(itertools.islice(faults, 3 * FACTS))
        self.relays[language] = relay
        arguments = (language, self._folder(language), relay.url, self.service.books.key, language)
        self._through_relay[language] = self.pool.submit(run, *arguments)
        self._graded[language] = self.pool.submit(self._grade, language)

    def through_relay(self, language: str) -> subprocess.CompletedProcess[str]:
        return self._through_relay[language].result()

    def findings(self, language: str) -> list[Finding]:
        return self._graded[language].result()

    def _grade(self, language: str) -> list[Finding]:
        times = Times(outage=3.0, retry_after=2, quiet=0.2, idle=5.0, start=1.0)
        with FakeServer(facts=FACTS, times=times) as fake:
            run(language, self._folder(f"{language} graded"), fake.url, "a key", "graded")
            fake.wait()  # until it has noted its last answer too
            # Each call of the command curl is a process, and so a connection, of its own.
            return fake.grader.findings(may_reconnect=language == "curl")

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder


@pytest.fixture(scope="module")
def trials(
    live_service: Service,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Trials]:
    with django_db_blocker.unblock(), default_database(live_service.books.url):
        Customer.objects.create(id=CUSTOMER, name="Beyond a float")
    installed = [name for name in COMMANDS if name not in MISSING]
    folder = tmp_path_factory.mktemp("clients")
    with ThreadPoolExecutor(2 * len(installed)) as pool:
        trials = Trials(live_service, folder, pool)
        relays = {name: FaultyRelay(live_service.port) for name in installed}
        for name, relay in relays.items():
            relay.__enter__()
            trials.start(name, relay)
        yield trials
    for relay in relays.values():
        relay.__exit__()


def stored(service: Service, language: str) -> list[dict[str, Any]]:
    records = service.books.table("usage_usagerecord")
    return [record for record in records if record["request_id"].startswith(f"{language}:")]


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_fact_is_stored_once_and_exactly(trials: Trials, language: str) -> None:
    done = trials.through_relay(language)

    assert done.returncode == 0, done.stderr
    assert not (trials.folder / language / "unsent.txt").exists()
    records = stored(trials.service, language)
    assert {record["request_id"] for record in records} == {
        f"{language}:{n}" for n in range(1, FACTS + 1)
    }
    assert {record["customer_id"] for record in records} == {CUSTOMER}
    assert {record["units"] for record in records} == {Decimal("1234567.89")}
    assert {record["price_per_unit"] for record in records} == {Decimal("0.0000001")}
    assert {record["service"] for record in records} == {
        f"CDN, region {n}" for n in range(1, FACTS + 1)
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_try_sends_the_same_bytes_and_every_fault_is_met(
    trials: Trials, language: str
) -> None:
    trials.through_relay(language)
    seen = trials.relays[language].seen

    assert len({request.body for request in seen}) == FACTS
    assert len(seen) >= FACTS + 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_grader_finds_no_fault(trials: Trials, language: str) -> None:
    assert trials.findings(language) == []


def test_the_clients_that_must_run_everywhere_are_installed() -> None:
    always = COMMANDS if "EVERY_CLIENT" in os.environ else ["curl", "Python", "Node"]

    assert [name for name in always if name in MISSING] == []
