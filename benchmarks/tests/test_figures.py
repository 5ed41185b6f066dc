"""A rate decides, unless its rounds differ so much that the processor time says more."""

import pytest

from benchmarks.figures import Bound, Rounds
from benchmarks.load import Result

BOUND = Bound(6, 8)


def result(rate: float, cpu: float) -> Result:
    return Result(rate, 0, 0, 0, "", 0, 0, worker_cpu=0.75 * cpu, database_cpu=0.25 * cpu)


@pytest.mark.parametrize(
    ("rates", "cpu", "verdicts"),
    [
        ((5.5, 5.0, 5.9), 0.1, ("MISSED", "stated")),
        ((6.5, 6.1, 7.0), 1.0, ("holds", "stated")),
        ((5.5, 5.0, 6.2), 0.1, ("CPU decides", "aim reached")),
        ((6.5, 6.0, 7.5), 0.2, ("CPU decides", "MISSED")),
    ],
)
def test_the_cpu_decides_where_rates_are_noisy(
    rates: tuple[float, ...], cpu: float, verdicts: tuple[str, str]
) -> None:
    rounds = Rounds(
        ours=[result(rate, cpu) for rate in rates], naive=[result(1, 1.0) for _ in rates]
    )

    rate, cost = rounds.compare("ours ÷ naive", "ours", "naive", BOUND)

    assert rate.value == rates[0]
    assert cost.value == pytest.approx(1 / cpu)
    assert (rate.verdict, cost.verdict) == verdicts
    assert rate.bound == BOUND
