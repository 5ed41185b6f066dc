"""Computes the tables of docs/growth.md from its measured one: `python -m benchmarks.capacity`."""

from __future__ import annotations

import math
import re
import sys

from benchmarks.databases import ROOT
from benchmarks.report import table

PAGE = ROOT / "docs" / "growth.md"
_RATES = (1_000, 10_000, 100_000)  # records a second
_YEARS = (1, 5, 10)
_SECONDS_A_YEAR = 365.25 * 86_400
_SPARE = 2  # half of each core stays free
_CORES_OF_A_HOST = 16
_LEAST_HOSTS = 2  # one may be lost
_LARGEST_TABLE = 32 * 2**40  # bytes: PostgreSQL's limit, with its pages of 8 KiB


def computed(page: str) -> list[str]:
    """Return the table of processors and that of disks, from the measured figures on the page."""
    costs = re.findall(r"^\| (.+?) \| ([\d.]+) µs \| ([\d.]+) µs \|", page, re.MULTILINE)
    sizes = re.search(r"^\| bytes per record.*? \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    if not costs or sizes is None:
        raise ValueError(f"{PAGE.name} has no table of measured figures: see its history.")
    processors = [
        ["records a second", "sent as", "application", "hosts of 16 cores", "PostgreSQL"],
        *(
            _processors(rate, sent_as, float(application), float(postgresql))
            for rate in _RATES
            for sent_as, application, postgresql in costs
        ),
    ]
    disks = [
        ["records a second", *(_period(years) for years in _YEARS), "the table is full after"],
        *(_disks(rate, int(sizes[1]), int(sizes[2])) for rate in _RATES),
    ]
    return ["\n".join(table(rows)) for rows in (processors, disks)]


def _processors(rate: int, sent_as: str, application: float, postgresql: float) -> list[str]:
    """One row; the costs are microseconds for each record."""
    cores, of_primary = (_SPARE * rate * cost / 1e6 for cost in (application, postgresql))
    hosts = max(_LEAST_HOSTS, math.ceil(cores / _CORES_OF_A_HOST))
    return [f"{rate:,}", sent_as, _cores(cores), str(hosts), _cores(of_primary)]


def _disks(rate: int, bytes_of_all: int, bytes_of_table: int) -> list[str]:
    """One row; the bytes are those of one record."""
    a_year = rate * _SECONDS_A_YEAR
    return [
        f"{rate:,}",
        *(_terabytes(years * a_year * bytes_of_all) for years in _YEARS),
        _period(_LARGEST_TABLE / bytes_of_table / a_year),
    ]


def _period(years: float) -> str:
    number, unit = (years, "year") if years >= 1 else (12 * years, "month")
    return f"1 {unit}" if round(number) == 1 else f"{number:.0f} {unit}s"


def _cores(cores: float) -> str:
    return f"{cores:.1f} cores" if cores < 10 else f"{cores:.0f} cores"


def _terabytes(size: float) -> str:
    return f"{size / 1e12:.2g} TB" if size < 1e14 else f"{size / 1e12:,.0f} TB"


def main() -> int:
    """Put the computed tables in place of those on the page."""
    page = PAGE.read_text()
    for new in computed(page):
        head = new.split("\n", 1)[0]
        old = re.search(rf"^{re.escape(head)}\n(\|.*\n)+", page, re.MULTILINE)
        if old is None:
            raise ValueError(f"{PAGE.name} has no table that begins with {head}: add that line.")
        page = page.replace(old[0], f"{new}\n")
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
