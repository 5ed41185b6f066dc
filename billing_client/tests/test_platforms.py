"""The library without parts that some Pythons lack: Windows, and small builds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from billing_client.tests.faulty import KEY, FaultyServer
from billing_client.tests.outboxes import ROOT

pytestmark = pytest.mark.live  # starts processes
WITHOUT = """
import os, sys
for name in ("fcntl", "_sqlite3", "sqlite3"):
    sys.modules[name] = None  # an import of it fails from now on
del os.register_at_fork, os.fork
"""
RECORDS = """
from billing_client import BillingClient
from billing_client.commands.main import main
url, key, outbox = sys.argv[1:]
with BillingClient(url, key) as billing:
    usage = dict(customer_id=1, service="x", units_consumed=1, price_per_unit=1)
    print(billing.record_usage(**usage, request_id="one").status)
    print(billing.record_many([{**usage, "request_id": "two"}]))
"""
OPENS_AN_OUTBOX = """
try:
    BillingClient(url, key, outbox=outbox)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def run(server: FaultyServer, tmp_path: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + RECORDS + OPENS_AN_OUTBOX, server.url, KEY, str(tmp_path)],
        cwd=ROOT,
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_everything_but_the_outbox_works(run: list[str], server: FaultyServer) -> None:
    assert run[:2] == ["created", "<Receipts: 1 created, 0 replayed, 0 rejected>"]
    assert list(server.service.stored) == ["one", "two"]


def test_the_outbox_says_what_it_lacks(run: list[str]) -> None:
    assert run[2].startswith("ConfigurationError: ")
    assert "locks of files that Linux and macOS have" in run[2]
