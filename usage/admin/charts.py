"""Bar charts drawn as SVG on the server, without a script or inline style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

WIDTH, HEIGHT = 800, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 8, 10, 26
_TICKS = 4
_CUT_OVER, _CUT_AT = 10, 1.5


class Value(NamedTuple):
    """The value of one bar; `said` is its amount as text, `mark` a note such as "today".

    `url` leads to the records behind it.
    """

    label: str
    amount: Decimal
    said: str
    mark: str = ""
    url: str = ""


class Bar(NamedTuple):
    """A bar in the picture's coordinates."""

    value: Value
    x: float
    y: float
    width: float
    height: float
    middle: float
    labelled: bool
    is_cut: bool


class Tick(NamedTuple):
    """A line across the picture, at a number."""

    y: float
    said: str


class Chart(NamedTuple):
    """A bar chart in the picture's coordinates."""

    bars: list[Bar]
    ticks: list[Tick]
    zero: float
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    baseline: int = HEIGHT - 8


def bar_chart(values: Sequence[Value]) -> Chart:
    """Lay out bars on a scale that has zero and all the values.

    A bar over ten times the next largest is cut, or no other could be seen.
    """
    whole = [float(value.amount) for value in values]
    *_, next_largest, largest = sorted([0.0, 0.0, *whole])
    limit = _CUT_AT * next_largest if 0 < _CUT_OVER * next_largest < largest else math.inf
    amounts = [min(amount, limit) for amount in whole]
    lowest, highest = min([0.0, *amounts]), max([0.0, *amounts])
    # The smallest round number that is not below the space between two ticks.
    least = (highest - lowest) / _TICKS or 1.0
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least * 0.999)
    bottom, top = math.floor(lowest / step), max(math.ceil(highest / step), 1)

    def height_of(amount: float) -> float:
        share = (amount / step - bottom) / (top - bottom)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP), 1)

    slot = (WIDTH - _LEFT - _RIGHT) / max(len(values), 1)
    bars = []
    for index, (value, amount) in enumerate(zip(values, amounts, strict=True)):
        is_cut = whole[index] > limit
        ends = sorted((height_of(0), height_of(top * step if is_cut else amount)))
        bars.append(
            Bar(
                value,
                x=round(_LEFT + index * slot + slot * 0.12, 1),
                y=ends[0],
                width=round(slot * 0.76, 1),
                height=round(ends[1] - ends[0], 1),
                middle=round(_LEFT + (index + 0.5) * slot, 1),
                labelled=index % max(1, round(len(values) / 16)) == 0,
                is_cut=is_cut,
            )
        )
    numbers = [Decimal(repr(step)) * line for line in range(bottom, top + 1)]
    ticks = [Tick(height_of(float(number)), _short(number)) for number in numbers]
    return Chart(bars, ticks, zero=height_of(0))


def _short(number: Decimal) -> str:
    for limit, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if abs(number) >= limit:
            return f"{float(number / limit):.4g}{unit}".replace("-", "−")
    return f"{float(number):.4g}".replace("-", "−")
