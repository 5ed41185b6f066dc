"""The kept sums of past days beside daily usage."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from usage.models import DailyUsage, PastDays
from usage.money import EXACT, plain
from usage.verification.difference import Difference, counted, signed

_NONE = Decimal(0)


def past_sums() -> Iterator[Difference]:
    """Compare each kept sum with the rows that it was made of."""
    kept = PastDays.objects.sums()
    if kept.until is None:
        return
    rows = DailyUsage.objects.past(kept.until)
    kept_units = {line[:-1]: line.units for line in kept.lines}
    units = {line[:-1]: line.units for line in rows.line_sums()}
    for line in units | kept_units:
        said, made = kept_units.get(line, _NONE), units.get(line, _NONE)
        if said != made:
            bill_id, service, price = line
            off = EXACT.subtract(said, made)
            yield Difference(
                bill_id,
                "past days",
                f"the kept sum of {service!r} at {plain(price)} up to {kept.until} is"
                f" {counted(said, 'unit')}, daily usage has {plain(made)}: off by {signed(off)}.",
                off,
            )
    kept_amounts = {amount[:-1]: amount.amount for amount in kept.amounts}
    amounts = {amount[:-1]: amount.amount for amount in rows.amount_sums()}
    for day_of_service in amounts | kept_amounts:
        said = kept_amounts.get(day_of_service, _NONE)
        made = amounts.get(day_of_service, _NONE)
        if said != made:
            currency, month, day, service = day_of_service
            yield Difference(
                None,
                "past days",
                f"the kept amount of {service!r} on {day}, on all bills of {month:%Y-%m} in"
                f" {currency}, is {plain(said)}, daily usage makes {plain(made)}: off by"
                f" {signed(EXACT.subtract(said, made))}.",
            )
