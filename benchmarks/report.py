"""The report: figures, machine and commands."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.databases import CUSTOMERS, Database, run
from benchmarks.figures import Figure, Rounds
from benchmarks.servers import WORKERS

PATH = Path(__file__).with_name("RESULTS.md")
_SETTINGS = (
    *("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers"),
    *("max_wal_size", "checkpoint_timeout"),
)


def machine(database: Database) -> list[str]:
    """The lines about what everything ran on."""
    packages = ("Django", "djangorestframework", "gunicorn", "psycopg2-binary", "requests")
    settings = [f"{name} {database.value(f'SHOW {name}')}" for name in _SETTINGS]
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    system = f"{platform.system()} {platform.release()}"
    libraries = ", ".join(f"{name} {version(name)}" for name in packages)
    postgresql = f"PostgreSQL {database.value('SHOW server_version')}"
    loads = (
        "wrk with one thread, 16 connections; ids in random order like uuid4; "
        f"{CUSTOMERS} customers, 8 services"
    )
    return [
        f"{os.cpu_count()} cores ({_processor()}), {memory}, {system}, shared by all of it.",
        f"Python {platform.python_version()}, {postgresql}, {libraries}.",
        f"Durability: {', '.join(settings)}.",
        f"Each side: gunicorn with gunicorn.conf.py and {WORKERS} workers. Load: {loads}.",
        "After every load the answers were compared with the stored records.",
        f"Load of the machine at the end: {os.getloadavg()[0]:.1f}.",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def wrk_version() -> str:
    """What wrk calls itself; it prints that with its usage, as an error."""
    try:
        return run(["wrk", "--version"], {}).split("Copyright")[0].strip()
    except RuntimeError as error:
        return str(error).split("failed:\n", 1)[-1].split("Copyright")[0].strip()


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its first row the head."""
    head, *body = rows
    return [_row(head), _row(["---"] * len(head)), *map(_row, body)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def figures(made: Sequence[Figure]) -> list[str]:
    """The ratios, with their bounds and aims."""
    rows = [["figure", "median", "rounds from–to", "must", "aim", ""]]
    for figure in made:
        sign = "≤" if figure.bound and figure.bound.at_most else "≥"
        must, aim = (
            (f"{sign} {figure.bound.must:g}", f"{sign} {figure.bound.aim:g}")
            if figure.bound
            else ("", "")
        )
        between = f"{figure.low:.3g}–{figure.high:.3g}"
        rows.append([figure.label, f"**{figure.value:.3g}**", between, must, aim, figure.verdict])
    return table(rows)


def rounds(results: Rounds) -> list[str]:
    """Rates, latencies and processor time of each load, medians over its rounds."""
    head = ["load", "records/s", "p50", "p95", "p99"]
    rows = [[*head, "CPU of the workers per record", "CPU of PostgreSQL per record"]]
    for label in results:
        rate = results.median_of(label, lambda result: result.records_per_second)
        latencies = [
            results.median_of(label, what)
            for what in (lambda r: r.p50, lambda r: r.p95, lambda r: r.p99)
        ]
        costs = [
            results.median_of(label, what)
            for what in (lambda r: r.worker_cpu, lambda r: r.database_cpu)
        ]
        rows.append(
            [
                label,
                f"{rate:,.0f}",
                *(f"{1000 * seconds:.1f} ms" for seconds in latencies),
                *(f"{1e6 * seconds:,.0f} µs" if seconds else "–" for seconds in costs),
            ]
        )
    return table(rows)
