"""The client's tests on each other Python that is installed, as part of `make soak`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing_client.tests.outboxes import ROOT

pytestmark = pytest.mark.live  # starts processes
MINORS = (12, 13, 14)
TOOLS = ["requests", "backoff", "pytest", "pytest-timeout", "hypothesis", "time-machine"]
TOOLS += ["psutil", "gevent"]
SETTINGS = """[pytest]
timeout = 300
filterwarnings =
    error
    # the project's own pytest.ini declares the markers
    ignore::pytest.PytestUnknownMarkWarning
"""


def candidates(minor: int) -> Iterator[Path]:
    """Where a Python 3.x may be: on the PATH, or among pyenv's, whose shims may lead nowhere."""
    on_path = shutil.which(f"python3.{minor}")
    if on_path:
        yield Path(on_path)
    yield from sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))


def installed_python(minor: int) -> Path | None:
    for path in candidates(minor):
        said = subprocess.run([path, "--version"], check=False, capture_output=True, text=True)
        if said.stdout.startswith(f"Python 3.{minor}."):
            return path
    return None


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("minor", MINORS)
def test_the_clients_tests_pass(minor: int, tmp_path: Path) -> None:
    python = installed_python(minor)
    if python is None:
        pytest.skip(f"Python 3.{minor} is not installed.")
    environment = tmp_path / "venv"
    own = environment / "bin" / "python"
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    subprocess.run([python, "-m", "venv", environment], check=True, timeout=120)
    subprocess.run([own, "-m", "pip", "install", "--quiet", *TOOLS], check=True, timeout=600)
    # The README and the package are tested where they are built.
    left_out = "not readme and not packaging and not other_pythons"
    done = subprocess.run(
        [
            *(own, "-m", "pytest", "-c", tmp_path / "pytest.ini", "--rootdir", ROOT),
            # Without the project's own conftest.py, which needs Django.
            *("--confcutdir", ROOT / "billing_client", "-p", "no:cacheprovider"),
            *("-q", "-k", left_out, ROOT / "billing_client"),
        ],
        check=False,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "SOAK"},
        timeout=1500,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
