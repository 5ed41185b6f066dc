"""The kept sums of past days beside daily usage."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal

from usage.models import DailyUsage, PastDays
from usage.models.daily_usage import Amount, LineSum
from usage.money import EXACT, plain
from usage.verification.difference import Difference, counted, signed

_NONE = Decimal(0)


def past_sums() -> Iterator[Difference]:
    """Compare each kept sum with the rows that it was made of."""
    kept = PastDays.objects.sums()
    if kept.until is None:
        return
    rows = DailyUsage.objects.past(kept.until)
    lines: dict[LineSum, Decimal] = {line._replace(units=_NONE): line.units for line in kept.lines}
    for line in rows.line_sums():
        units = lines.pop(line._replace(units=_NONE), _NONE)
        if units != line.units:
            yield _off_line(line, units, kept.until)
    for line, units in lines.items():
        yield _off_line(line, units, kept.until)
    amounts = {amount._replace(amount=_NONE): amount.amount for amount in kept.amounts}
    for amount in rows.amount_sums():
        sum_kept = amounts.pop(amount._replace(amount=_NONE), _NONE)
        if sum_kept != amount.amount:
            yield _off_amount(amount, sum_kept)
    for amount, sum_kept in amounts.items():
        yield _off_amount(amount, sum_kept)


def _off_line(line: LineSum, kept: Decimal, until: dt.date) -> Difference:
    units = EXACT.subtract(kept, line.units)
    return Difference(
        line.bill_id,
        "past days",
        f"the kept sum of {line.service!r} at {plain(line.price)} up to {until} is"
        f" {counted(kept, 'unit')}, daily usage has {plain(line.units)}: off by {signed(units)}.",
        units,
    )


def _off_amount(amount: Amount, kept: Decimal) -> Difference:
    return Difference(
        None,
        "past days",
        f"the kept amount of {amount.service!r} on {amount.day}, on all bills of"
        f" {amount.month:%Y-%m} in {amount.currency}, is {plain(kept)}, daily usage makes"
        f" {plain(amount.amount)}: off by {signed(EXACT.subtract(kept, amount.amount))}.",
    )
