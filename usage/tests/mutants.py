"""Small wrong versions of the code, each with the tests that must catch it: `make mutants`.

A mutant is put into a copy of the repository, and its tests run there. It is killed if one of them
fails; if all pass it survives, which means that a rule has no test.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

import psycopg2

from usage.tests import postgresql

ROOT = Path(__file__).resolve().parents[2]
TESTS_FAILED = 1  # pytest's exit status; others say that the tests did not run
AT_ONCE = 2


class Mutant(NamedTuple):
    """In `file`, `old` becomes `new`; `tests` must notice, on SQLite or on PostgreSQL."""

    file: str
    old: str
    new: str
    tests: list[str]
    on_postgresql: bool = False


def _mutants() -> list[Mutant]:
    files = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    return [Mutant(file, **changes) for file, mutants in files.items() for changes in mutants]


MUTANTS = _mutants()


def times_applied(mutant: Mutant) -> int:
    """How often a file contains the text that the mutant changes; it must be once."""
    return (ROOT / mutant.file).read_text().count(mutant.old)


class Result(NamedTuple):
    """What became of a mutant; `fault` is empty if it was killed."""

    mutant: Mutant
    fault: str
    seconds: float


@contextlib.contextmanager
def _copies(number: int, server_url: str) -> Iterator[Queue[tuple[Path, str]]]:
    """Copies of the repository's files to put mutants into, each with a PostgreSQL database."""
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: Queue[tuple[Path, str]] = Queue()
        for place in range(number):
            copy = Path(folder) / str(place)
            for name in filter(None, files):
                if (ROOT / name).is_file():
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, copy / name)
            copies.put((copy, _new_database(server_url, f"mutants_{place}")))
        yield copies


def _new_database(server_url: str, name: str) -> str:
    """The address of a database of a copy's own, beside which its test database is made."""
    with contextlib.closing(psycopg2.connect(server_url)) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
    return f"{server_url.rpartition('/')[0]}/{name}"


def _examine(mutant: Mutant, copies: Queue[tuple[Path, str]]) -> Result:
    """Put the mutant into a copy, run its tests there, and take it out again."""
    copy, url = copies.get()
    began = time.monotonic()
    path = copy / mutant.file
    right = path.read_text()
    path.write_text(right.replace(mutant.old, mutant.new))
    database = url if mutant.on_postgresql else "sqlite:///db.sqlite3"
    options = ["-q", "-x", "--no-cov", "-p", "no:cacheprovider", "-m", "not browser"]
    try:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *mutant.tests],
            cwd=copy,
            env=os.environ | {"DATABASE_URL": database, "PYTHONDONTWRITEBYTECODE": "1"},
            check=False,
            capture_output=True,
            text=True,
        )
        fault = {TESTS_FAILED: "", 0: "survived"}.get(run.returncode, run.stdout[-2000:])
    finally:
        path.write_text(right)
        copies.put((copy, url))
    return Result(mutant, fault, time.monotonic() - began)


def main() -> int:
    """Examine the mutants; 1 if one survives, or if its tests could not run."""
    parser = argparse.ArgumentParser(prog="python -m usage.tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="only mutants of files with this in their name")
    chosen = [mutant for mutant in MUTANTS if parser.parse_args().only in mutant.file]
    faults = 0
    with (
        postgresql.server() as url,
        _copies(AT_ONCE, url) as copies,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        for mutant, fault, seconds in pool.map(lambda one: _examine(one, copies), chosen):
            faults += bool(fault)
            print(  # noqa: T201 - a command
                f"{fault or 'killed'} in {seconds:.0f} s: {mutant.file}: {mutant.old.strip()!r}"
                f" → {mutant.new.strip()!r}",
                flush=True,
            )
    print(f"{len(chosen) - faults} of {len(chosen)} mutants were killed.")  # noqa: T201 - as above
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
