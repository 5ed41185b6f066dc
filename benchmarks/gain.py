"""The service beside itself: without an optimisation, with a variable, and as it was earlier."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import ingest, load, neighbours, others
from benchmarks.databases import ROOT
from benchmarks.figures import Bound, Figure, Rounds, ratio
from benchmarks.load import Load, Result
from benchmarks.neighbours import Observed
from benchmarks.servers import Server, free_port
from benchmarks.without import VARIABLE

SIZES = {"new records": 0, "batches of 100": 100, "batches of 1000": 1000}
VARIABLES: dict[str, Callable[[], dict[str, str]]] = {
    "metrics": lambda: {"METRICS_ADDRESS": f"127.0.0.1:{free_port()}"},
    "log": lambda: {"ACCESS_LOG": "1", "LOG_FORMAT": "json"},
}
_COST = Bound(1.10, 1.06, at_most=True)


def measure(
    server_url: str, name: str, *, rounds: int, seconds: float, say: Callable[[str], None]
) -> tuple[list[Figure], Rounds]:
    """Make each load with and without an optimisation in turns; return ratios and results."""
    results = Rounds()
    figures = []
    with (
        ingest.ours(server_url) as ours,
        ingest.ours(server_url, "benchmarks.without", environment={VARIABLE: name}) as without,
    ):
        for label, size in SIZES.items():
            sides = [
                Load(label, ours, size),
                Load(f"{label}, without {name}", without, size),
            ]
            for side in sides:  # warm: bills open, connections made, pages in memory
                load.make(side, 1)
            results |= ingest.in_turns(sides, rounds=rounds, seconds=seconds, say=say)
            with_it, without_it = (results[side.label] for side in sides)
            figures += _figures(label, "without ÷ with", without_it, with_it)
        figures += _quiet_keys((ours, without), rounds=rounds, say=say)
    return figures, results


def cost(
    server_url: str, names: list[str], *, rounds: int, seconds: float, say: Callable[[str], None]
) -> tuple[list[Figure], Rounds]:
    """Make each load with and without metrics, or the log, in turns; return ratios and results."""
    results = Rounds()
    figures = []
    with contextlib.ExitStack() as stack:
        sides: dict[str, Server] = {"without": stack.enter_context(ingest.ours(server_url))}
        for name in names:
            variables = VARIABLES[name]()
            sides[name] = stack.enter_context(ingest.ours(server_url, environment=variables))
        for label, size in SIZES.items():
            loads = [Load(f"{label}, {name}", server, size) for name, server in sides.items()]
            for made in loads:
                load.make(made, 1)
            results |= ingest.in_turns(loads, rounds=rounds, seconds=seconds, say=say)
            plain, *others = ([one.worker_cpu for one in results[made.label]] for made in loads)
            figures += [
                ratio(
                    f"{label}: CPU of the workers per record, with {name} ÷ without",
                    other,
                    plain,
                    _COST if name == "metrics" else None,
                )
                for name, other in zip(names, others, strict=True)
            ]
    return figures, results


def beside(
    server_url: str, revision: str, *, rounds: int, seconds: float, say: Callable[[str], None]
) -> tuple[list[Figure], Rounds]:
    """Make each load on this tree and on that of a Git revision in turns; return the ratios.

    Both run with the libraries that are installed now, on a database of their own.
    """
    starts: dict[str, Callable[[Path], contextlib.AbstractContextManager[Server]]] = {
        "PostgreSQL": lambda root: ingest.ours(server_url, root=root),
        "SQLite": lambda root: others.on_sqlite(root=root),
    }
    results = Rounds()
    figures = []
    with _tree_of(revision) as earlier, contextlib.ExitStack() as stack:
        for engine, start in starts.items():
            now, then = (stack.enter_context(start(root)) for root in (ROOT, earlier))
            for kind, size in SIZES.items():
                label = f"{kind} on {engine}"
                sides = [Load(label, now, size), Load(f"{label}, {revision}", then, size)]
                for side in sides:
                    load.make(side, 1)
                results |= ingest.in_turns(sides, rounds=rounds, seconds=seconds, say=say)
                figures += _figures(
                    label, f"now ÷ {revision}", *(results[side.label] for side in sides)
                )
    return figures, results


@contextlib.contextmanager
def _tree_of(revision: str) -> Iterator[Path]:
    """The files of a Git revision, in a folder of their own."""
    archive = subprocess.run(  # noqa: S603 - our own command
        ["git", "archive", "--end-of-options", revision],  # noqa: S607 - from the PATH
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    with tempfile.TemporaryDirectory(prefix="billing-bench-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)


def _figures(
    label: str, what: str, numerators: list[Result], denominators: list[Result]
) -> list[Figure]:
    def rates(results: list[Result]) -> list[float]:
        return [result.records_per_second for result in results]

    def costs(results: list[Result]) -> list[float]:
        return [result.worker_cpu + result.database_cpu for result in results]

    return [
        ratio(f"{label}: records/s, {what}", rates(numerators), rates(denominators)),
        ratio(
            f"{label}: CPU per record of workers and PostgreSQL, {what}",
            costs(numerators),
            costs(denominators),
        ),
    ]


def _quiet_keys(
    sides: tuple[Server, Server], *, rounds: int, say: Callable[[str], None]
) -> list[Figure]:
    """The gain of quiet keys beside a busy one."""
    keys = [neighbours.quiet_keys(server) for server in sides]
    observed: tuple[list[Observed], list[Observed]] = [], []
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            one = neighbours.observe(sides[side], keys[side], connections=64)
            observed[side].append(one)
            say(f"quiet keys, {('with', 'without')[side]}: p99 {1000 * one.p99:.0f} ms")
    ours, without = observed
    label = "beside 64 connections of one busy key, without ÷ with"
    return [
        ratio(f"quiet keys' p50 {label}", [one.p50 for one in without], [one.p50 for one in ours]),
        ratio(f"quiet keys' p99 {label}", [one.p99 for one in without], [one.p99 for one in ours]),
    ]
