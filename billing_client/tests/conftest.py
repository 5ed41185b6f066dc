from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import venv
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import billing_client
from billing_client import BillingClient, Usage
from billing_client.outbox import outbox as outbox_module
from billing_client.outbox.outbox import Outbox
from billing_client.tests.faulty import KEY, FaultyServer
from billing_client.tests.outboxes import NO_SERVICE, hurried

PROJECT = Path(billing_client.__file__).parent


class Sleeps(list[float]):
    """The seconds backoff asked to sleep; they pass on the deadline's clock at once.

    ``overslept`` is the time that the machine slept beyond that.
    """

    overslept = 0.0

    def sleep(self, seconds: float) -> None:
        self.append(seconds)

    def monotonic(self) -> float:
        return time.monotonic() + sum(self) + (self.overslept if self else 0)


@pytest.fixture(autouse=True)
def sleeps(monkeypatch: pytest.MonkeyPatch) -> Sleeps:
    sleeps = Sleeps()
    monkeypatch.setattr("backoff._sync.time", SimpleNamespace(sleep=sleeps.sleep))
    monkeypatch.setattr("billing_client.retries.monotonic", sleeps.monotonic)
    return sleeps


@pytest.fixture(autouse=True)
def _measured_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let coverage see the outbox's threads, which are started below the threading module."""
    if threading.gettrace() is None:
        return

    def start(function: Callable[..., object], args: tuple[object, ...]) -> int:
        def traced(*args: object) -> None:
            sys.settrace(threading.gettrace())
            function(*args)

        return start_new_thread(traced, args)

    monkeypatch.setattr(outbox_module, "start_new_thread", start)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "BILLING_URL",
        "BILLING_API_KEY",
        "BILLING_OUTBOX_DIR",
        "NETRC",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outbox's times in hundredths."""
    monkeypatch.setattr(outbox_module, "ATTEMPTS", (0.01, 0.2, 0.01))
    monkeypatch.setattr(outbox_module, "LINGER_SECONDS", 0.01)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with only the wheel in it, built as the README says; needs a package index.

    The processes of a run share one.
    """
    basis = tmp_path_factory.getbasetemp()
    folder = (basis.parent if "PYTEST_XDIST_WORKER" in os.environ else basis) / "installed"
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _install(folder)
    return folder / "venv"


def _install(folder: Path) -> None:
    left_behind = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    shutil.copytree(PROJECT, folder / "billing_client", ignore=left_behind)
    environment = folder / "venv"
    venv.create(environment)
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    (build,) = re.findall(r"^\$ (python -m pip wheel .*)$", readme, re.MULTILINE)
    # venv's own way to install pip compiles all of it, which takes three times as long.
    pip = f"'{sys.executable}' -m pip --python {environment}/bin/python install --no-compile pip"
    for command in (pip, build, "python -m pip install dist/billing_client-*.whl"):
        done = subprocess.run(
            ["bash", "-c", f"PATH={environment}/bin:$PATH; {command}"],
            check=False,
            cwd=folder,
            timeout=300,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


@pytest.fixture
def billing(server: FaultyServer) -> Iterator[BillingClient]:
    with BillingClient(server.url, KEY, read_timeout=5) as billing:
        yield billing


@pytest.fixture
def twice(server: FaultyServer) -> Iterator[BillingClient]:
    """A client that tries twice."""
    with BillingClient(server.url, KEY, read_timeout=5, attempts=2) as billing:
        yield billing


@pytest.fixture
def hasty(server: FaultyServer) -> Iterator[BillingClient]:
    """A client that tries twice and gives an answer so little time that it may miss a good one."""
    with BillingClient(server.url, KEY, read_timeout=0.15, attempts=2) as billing:
        yield billing


@pytest.fixture
def stubborn(server: FaultyServer) -> Iterator[BillingClient]:
    """A client that gives an answer little time, but tries often."""
    with BillingClient(server.url, KEY, read_timeout=0.15, attempts=20) as billing:
        yield billing


@pytest.fixture
def usage() -> Callable[..., Usage]:
    def make(request_id: str | None = None, customer_id: int = 123, units: int = 58) -> Usage:
        return Usage(
            customer_id=customer_id,
            service="Database Hosting",
            units_consumed=units,
            price_per_unit="0.05",
            request_id=request_id,
        )

    return make


@pytest.fixture
def outbox(server: FaultyServer, tmp_path: Path) -> Iterator[BillingClient]:
    """A client with an outbox, which leaves its unsent records."""
    with hurried(server.url, tmp_path) as billing:
        yield billing


@pytest.fixture
def away(tmp_path: Path) -> Iterator[BillingClient]:
    """The same while the service is away."""
    with hurried(NO_SERVICE, tmp_path) as billing:
        yield billing


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outbox starts no thread."""
    monkeypatch.setattr(Outbox, "_start", lambda self: None)
