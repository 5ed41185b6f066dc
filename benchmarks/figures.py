"""Figures and their bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.load import Result


class Bound(NamedTuple):
    """What a figure must be, and should be; `at_most` when less is better."""

    must: float
    aim: float
    at_most: bool = False


_NOISY = 0.2  # of the median


class Figure(NamedTuple):
    """One ratio, with the lowest and the highest of its rounds; no bound: it is only stated.

    If another figure `decides`, this one's bound is shown, and holds for the other.
    """

    label: str
    value: float
    low: float
    high: float
    bound: Bound | None = None
    decides: str = ""

    @property
    def is_noisy(self) -> bool:
        """Tell whether the rounds differ by more than a fifth of the median."""
        return self.high - self.low > _NOISY * self.value

    @property
    def verdict(self) -> str:
        """How the value compares with its bound."""
        if self.decides:
            return f"{self.decides} decides"
        if self.bound is None:
            return "stated"
        sign = -1 if self.bound.at_most else 1
        if sign * self.value >= sign * self.bound.aim:
            return "aim reached"
        return "holds" if sign * self.value >= sign * self.bound.must else "MISSED"


def ratio(
    label: str, above: Sequence[float], below: Sequence[float], bound: Bound | None = None
) -> Figure:
    """The median of the ratios of each round, whose two sides were measured one after the other."""
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    return Figure(label, median(ratios), min(ratios), max(ratios), bound)


class Rounds(dict[str, list[Result]]):
    """The results of each load by its label, one for each round."""

    def rates(self, label: str) -> list[float]:
        """Records per second in each round."""
        return [result.records_per_second for result in self[label]]

    def costs(self, label: str) -> list[float]:
        """Seconds of processor time of workers and PostgreSQL per record, in each round."""
        return [result.worker_cpu + result.database_cpu for result in self[label]]

    def compare(self, label: str, ours: str, other: str, bound: Bound) -> list[Figure]:
        """Compare rates, and the CPU per record, which decides if the rates are noisy."""
        rate = ratio(f"{label}, records/s", self.rates(ours), self.rates(other), bound)
        costs = ratio(f"{label}, CPU per record (inverse)", self.costs(other), self.costs(ours))
        if rate.is_noisy:
            return [rate._replace(decides="CPU"), costs._replace(bound=bound)]
        return [rate, costs]

    def median_of(self, label: str, what: Callable[[Result], float]) -> float:
        """The median over the rounds of one of its values."""
        return median(what(result) for result in self[label])
