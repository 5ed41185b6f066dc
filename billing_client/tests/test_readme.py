"""Every example of the README runs as it is written, where only the wheel is installed."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import billing_client
from billing_client import ConflictError, Usage
from billing_client.tests.conftest import PROJECT
from billing_client.tests.faulty import KEY, FaultyServer

# The first test waits for the installation, which is long on a busy machine.
pytestmark = pytest.mark.timeout(600)

README = (PROJECT / "README.md").read_text(encoding="utf-8")


class Example(NamedTuple):
    """A block of code, and the heading that it is under."""

    heading: str
    language: str
    code: str


def examples() -> list[Example]:
    found, heading = [], ""
    parts = re.split(r"^(#+ [^\n]*|```\w+\n.*?^```)$", README, flags=re.DOTALL | re.MULTILINE)
    for part in parts:
        if part.startswith("#"):
            heading = part.strip("# ")
        elif part.startswith("```"):
            language, _, code = part.strip("`").partition("\n")
            found.append(Example(heading, language, code))
    return found


EXAMPLES = [example for example in examples() if example.language != "text"]


class Shell:
    """Runs commands in the environment that only the wheel is installed into."""

    def __init__(self, environment: Path, folder: Path, server: FaultyServer) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        } | {
            "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
            "BILLING_URL": server.url,
            "BILLING_API_KEY": KEY,
            "BILLING_OUTBOX_DIR": str(folder / "billing"),
        }
        (folder / "billing").mkdir()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            check=False,
            cwd=self.folder,
            env=self.environment,
            timeout=60,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr
        return done

    def python(self, code: str) -> None:
        done = self.run("python", "-c", code.replace("/var/lib/myteam", str(self.folder)))
        assert done.returncode == 0, done.stderr

    def console(self, code: str) -> None:
        for part in code.removeprefix("$ ").split("\n$ "):
            command, _, expected = part.strip("\n").partition("\n")
            if command.startswith("cat "):  # a file that the next commands read
                (self.folder / command.removeprefix("cat ")).write_text(f"{expected}\n")
            elif command.startswith("export "):
                name, _, value = command.removeprefix("export ").partition("=")
                self.environment[name] = value.replace("/var/lib/myteam", str(self.folder))
            elif not command.startswith("python -m pip"):  # that is how it came to be installed
                done = self.run("bash", "-c", command)
                if expected:
                    assert (done.returncode, done.stdout) == (0, f"{expected}\n"), done.stderr
                assert "usage:" not in done.stderr  # some find nothing to do, and say so

    def cron(self, code: str) -> None:
        (self.folder / "usage.csv").write_text(
            "request_id,customer_id,service,units_consumed,price_per_unit,occurred_at\n"
            "cdn:1,123,CDN Storage,58,0.02,2026-11-22T10:00:00Z\n"
        )
        for line in code.splitlines():
            command = line.split(maxsplit=5)[5].replace("\\%", "%")
            done = self.run("sh", "-c", command)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "example",
    EXAMPLES,
    ids=[f"{number}: {example.heading}" for number, example in enumerate(EXAMPLES)],
)
def test_an_example_runs_where_only_the_wheel_is_installed(
    example: Example, installed: Path, tmp_path: Path, server: FaultyServer
) -> None:
    shell = Shell(installed, tmp_path, server)
    getattr(shell, example.language)(example.code)


def test_the_commands_in_their_order_cause_no_conflict(
    installed: Path, tmp_path: Path, server: FaultyServer
) -> None:
    shell = Shell(installed, tmp_path, server)
    for example in EXAMPLES:
        if example.language == "console":
            shell.console(example.code)


def test_each_job_has_an_example() -> None:
    headings = {example.heading for example in EXAMPLES}
    jobs = re.findall(r"^### (.*)$", README[: README.index("### Another language")], re.MULTILINE)
    assert len(jobs) == 7
    assert headings.issuperset(jobs)


def test_no_example_leaves_out_the_time_that_a_retry_needs() -> None:
    for example in EXAMPLES:
        if example.language == "python" and "record_" in example.code:
            assert "request_id" in example.code
            assert "occurred_at" in example.code


def test_the_errors_are_all_told_of() -> None:
    kinds = [name for name in billing_client.__all__ if name.endswith("Error")]
    told = [name for name in kinds if f"`{name}`" in README]
    assert told == [name for name in kinds if name != "FieldError"]


def test_a_copy_for_another_fact_needs_an_id_of_its_own(server: FaultyServer) -> None:
    usage = Usage(customer_id=1, service="x", units_consumed=1, price_per_unit=1)
    with billing_client.BillingClient(server.url, KEY) as billing:
        billing.record_many([usage])
        receipts = billing.record_many([replaced(usage), replaced(usage, request_id="new")])
    assert [receipt.status for receipt in receipts] == ["rejected", "created"]
    with pytest.raises(ConflictError):
        receipts.raise_for_rejected()


def replaced(usage: Usage, **changes: Any) -> Usage:
    return dataclasses.replace(usage, units_consumed=Decimal(2), **changes)
