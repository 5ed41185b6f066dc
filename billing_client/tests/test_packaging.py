"""The client as other teams install it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import billing_client
from billing_client.tests.faulty import KEY, FaultyServer

PROJECT = Path(billing_client.__file__).parent

# The first test waits for the installation, which is long on a busy machine.
pytestmark = pytest.mark.timeout(600)

SCRIPT = """
import importlib.util, sys
import billing_client
assert billing_client.__file__.startswith(sys.prefix), billing_client.__file__
assert importlib.util.find_spec("django") is None
assert importlib.util.find_spec("billing_client.tests") is None
with billing_client.BillingClient(sys.argv[1], sys.argv[2]) as billing:
    fact = dict(customer_id=1, service="x", units_consumed=1, price_per_unit=1)
    print(billing.record_usage(**fact).status)
"""


def test_it_needs_only_requests_and_backoff() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert sorted(name.partition(">=")[0] for name in project["dependencies"]) == [
        "backoff",
        "requests",
    ]
    assert project["requires-python"] == ">=3.11"


TYPED = """
from decimal import Decimal
from typing import assert_type

from billing_client import BillingClient, ConflictError, Receipt, Receipts, Usage

with BillingClient("https://billing.example.com", api_key="key") as billing:
    receipt = billing.record_usage(
        customer_id=1, service="x", units_consumed=1.5, price_per_unit=Decimal(1)
    )
    assert_type(receipt, Receipt)
    assert_type(receipt.amount, Decimal | None)
    usage = Usage(customer_id=1, service="x", units_consumed="1", price_per_unit=0)
    try:
        assert_type(billing.record_many(usage for _ in range(3)), Receipts)
    except ConflictError as error:
        assert_type(error.conflicting_fields, tuple[str, ...])
    billing.record_usage(customer_id="1")  # type: ignore[call-arg, arg-type]
"""


def test_it_installs_into_an_empty_environment_and_works_there(
    installed: Path, server: FaultyServer
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run = subprocess.run(
        [installed / "bin" / "python", "-c", SCRIPT, server.url, KEY],
        check=True,
        cwd=installed,
        env=clean,
        timeout=30,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "created"
    (packages,) = installed.glob("lib/python*/site-packages")
    assert (packages / "billing_client" / "py.typed").is_file()
    assert not (packages / "billing_client" / "tests").exists()
    assert (packages / f"billing_client-{billing_client.__version__}.dist-info").is_dir()


def test_it_tells_strict_type_checkers_what_it_takes_and_gives(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "typed.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, "typed.py"]
    run = subprocess.run(
        [*command, "--python-executable", installed / "bin" / "python"],
        check=False,
        cwd=tmp_path,
        timeout=100,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (0, "Success: no issues found in 1 source file\n")


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (PROJECT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\S+)", changelog, re.MULTILINE)[0] == billing_client.__version__


def test_the_command_is_installed(installed: Path) -> None:
    said = subprocess.run(
        [installed / "bin" / "billing-client", "--version"],
        check=True,
        timeout=30,
        capture_output=True,
        text=True,
    )
    assert said.stdout == f"billing-client {billing_client.__version__}\n"
