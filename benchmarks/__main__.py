"""Measures the service beside its peers: `make bench`, or `make bench ARGS=--quick`."""

from __future__ import annotations

import argparse
import datetime as dt
import sys

from benchmarks import (
    client,
    gain,
    growth,
    ingest,
    load,
    neighbours,
    others,
    outbox,
    overview,
    report,
)
from benchmarks.databases import server
from benchmarks.figures import Figure
from benchmarks.without import OPTIMISATIONS

_SIZES = [10_000, 1_000_000, 10_000_000]


def main() -> int:
    """Measure, print and write the report; 1 if a figure misses its bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="only the first rows, in three minutes; writes nothing"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, help="of each load")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=_SIZES, help="records, from small to large"
    )
    parser.add_argument(
        "--without",
        choices=OPTIMISATIONS,
        help="only measure what this optimisation gains; writes nothing",
    )
    parser.add_argument(
        "--cost-of",
        choices=gain.VARIABLES,
        nargs="+",
        help="only measure what these cost; writes nothing",
    )
    parser.add_argument(
        "--beside",
        metavar="REVISION",
        help="only measure this tree beside that of a Git revision; writes nothing",
    )
    arguments = parser.parse_args()
    load.require_wrk()
    seconds = arguments.seconds or (2 if arguments.quick else 10)
    lines = [f"# Measured on {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC", ""]
    with server() as url:
        for name, measure in (
            (arguments.without, gain.measure),
            (arguments.cost_of, gain.cost),
            (arguments.beside, gain.beside),
        ):
            if name is None:
                continue
            figures, results = measure(
                url, name, rounds=arguments.rounds, seconds=seconds, say=_say
            )
            lines += [*report.figures(figures), "", *report.rounds(results)]
            sys.stdout.write("\n" + "\n".join(lines) + "\n")
            return 0
        figures, body = _first(url, arguments.rounds, seconds, quick=arguments.quick)
        if not arguments.quick:
            observed = neighbours.measure(url, rounds=arguments.rounds, say=_say)
            figures += neighbours.figures(observed)
            body += ["", "## Quiet keys beside one busy key", "", *neighbours.lines(observed)]
            visits = overview.measure(url, rounds=arguments.rounds, say=_say)
            figures += overview.figures(visits)
            more, rest = _growth(url, arguments.sizes, arguments.rounds, seconds)
            figures += more
            body += rest
    lines += [*report.figures(figures), "", *body]
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    if not arguments.quick:
        command = f"python -m benchmarks {' '.join(sys.argv[1:])}".strip()
        lines += ["", f"Made by `make bench` (`{command}`)."]
        report.PATH.write_text("\n".join(lines) + "\n")
    missed = [figure.label for figure in figures if figure.verdict == "MISSED"]
    if missed:
        sys.stderr.write(f"Figures that miss their bounds: {'; '.join(missed)}.\n")
    return 1 if missed else 0


def _say(text: str) -> None:
    sys.stderr.write(f"{dt.datetime.now(dt.UTC):%H:%M:%S} {text}\n")


def _first(url: str, rounds: int, seconds: float, *, quick: bool) -> tuple[list[Figure], list[str]]:
    """Ingest beside the peers; and if not quick, SQLite, the client and the outbox."""
    with ingest.sides(url) as sides:
        started = ", ".join(
            f"{side.name} {side.start_seconds:.1f} s"
            for side in (sides.ours, sides.floor, sides.naive)
        )
        fresh = sides.ours.worker_megabytes()
        results = ingest.measure(sides, rounds=rounds, seconds=seconds, quick=quick, say=_say)
        figures = ingest.figures(results)
        body = [
            "",
            "## Machine",
            "",
            *(f"- {line}" for line in report.machine(sides.books)),
        ]
        body += [f"- {report.wrk_version()}; from start to first answer: {started}."]
        body += ["", "## Ingest", "", *report.rounds(results)]
        if not quick:
            beside = others.measure(sides.ours, rounds=rounds, seconds=seconds, say=_say)
            figures += others.figures(beside)
            sent = client.measure(sides.ours, rounds=rounds, seconds=seconds, say=_say)
            figures += client.figures(sent)
            figures += outbox.figures(outbox.measure(sides.ours, rounds=rounds, say=_say))
            body += ["", "## SQLite, and the client", "", *report.rounds(beside), ""]
            body += [f"- {line}" for line in client.lines(sent)]
            limit = others.limit(sides.books, seconds)
            body += [f"- pgbench, the same transaction without Python: {limit or 0:,.0f} records/s"]
            body += [
                (
                    f"- largest worker: {fresh:.0f} MiB at the start,"
                    f" {sides.ours.worker_megabytes():.0f} MiB after"
                    f" {sides.ours.database.stored():,} records"
                )
            ]
    return figures, body


def _growth(
    url: str, sizes: list[int], rounds: int, seconds: float
) -> tuple[list[Figure], list[str]]:
    grown = growth.measure(url, sizes, rounds=rounds, seconds=seconds, say=_say)
    body = ["", "## As records pile up", "", *report.table(growth.table(grown)), ""]
    body += report.rounds(grown.ingest)
    return growth.figures(grown), body


if __name__ == "__main__":
    sys.exit(main())
