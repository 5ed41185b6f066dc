"""What one optimisation gains: the service beside itself without it."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import ingest, load
from benchmarks.figures import Figure, Rounds, ratio
from benchmarks.load import Load, Result
from benchmarks.without import VARIABLE

SIZES = {"new records": 0, "batches of 100": 100, "batches of 1000": 1000}


def measure(
    server_url: str, name: str, *, rounds: int, seconds: float, say: Callable[[str], None]
) -> tuple[list[Figure], Rounds]:
    """Make each load with and without it in each round, in turns; return ratios and results."""
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
            figures += _figures(label, *(results[side.label] for side in sides))
    return figures, results


def _figures(label: str, ours: list[Result], without: list[Result]) -> list[Figure]:
    def rates(results: list[Result]) -> list[float]:
        return [result.records_per_second for result in results]

    def costs(results: list[Result]) -> list[float]:
        return [result.worker_cpu + result.database_cpu for result in results]

    return [
        ratio(f"{label}: records/s, without ÷ with", rates(without), rates(ours)),
        ratio(
            f"{label}: CPU per record of workers and PostgreSQL, without ÷ with",
            costs(without),
            costs(ours),
        ),
    ]
